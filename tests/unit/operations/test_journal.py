"""The journal: what it keeps over a restart, and what it says when its file cannot be used."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from agent.errors import JournalError, NoSpaceError, StorageUnavailableError, describe
from agent.events import Completed, OperationKind, OperationResult, OperationState, StateChanged, WarningRaised
from agent.operations import journal as journal_module
from agent.operations.journal import FILE_NAME, Journal
from agent.operations.record import LoggedEvent, OperationRecord


def record(name: str, request_id: str = "") -> OperationRecord:
    return OperationRecord(
        name=name,
        kind=OperationKind.SNAPSHOT,
        state=OperationState.PENDING,
        request_id=request_id,
        digest="d",
        path=b"/work\xff",
        snapshot="",
        request=b"{}",
        create_time_ns=1,
    )


def ended(before: OperationRecord, completed: Completed) -> OperationRecord:
    return msgspec.structs.replace(
        before, state=completed.state, end_time_ns=2, last_sequence=9, completed=completed, snapshot="s"
    )


@pytest_asyncio.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal(str(tmp_path))
    await opened.open()
    yield opened
    await opened.close()


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Journal(str(tmp_path))
    await first.open()
    running = await first.add(record("snapshot-1", "id-1"))
    running = msgspec.structs.replace(
        running, state=OperationState.RUNNING, last_sequence=2, begun="20261123T110512Z-4f2a9c01", continuations=2
    )
    await first.update(running)
    done = await first.add(record("snapshot-2"))
    failure = Completed(
        OperationState.FAILED, describe(StorageUnavailableError("gone", metadata={"k": "v"})), OperationResult("s")
    )
    history = [
        LoggedEvent(1, 10, StateChanged(OperationState.PENDING)),
        LoggedEvent(2, 11, WarningRaised("R", "m", (b"\xff/\n",), 1)),
        LoggedEvent(9, 12, failure),
    ]
    await first.finish(ended(done, failure), history)
    await first.close()

    second = Journal(str(tmp_path))
    await second.open()
    assert await second.unfinished() == [running]
    assert await second.by_request_id("id-1") == running
    assert await second.get("snapshot-2") == ended(done, failure)
    assert await second.history("snapshot-2") == history
    assert await second.history("snapshot-1") == []
    assert await second.get("snapshot-3") is None
    assert await second.by_request_id("id-2") is None
    await second.close()


async def test_pages_go_from_the_newest_to_the_oldest(journal: Journal) -> None:
    for number in range(5):
        await journal.add(record(f"snapshot-{number}"))
    first = await journal.page(0, 2)
    second = await journal.page(first[-1].number, 10)
    assert [one.name for one in first + second] == [f"snapshot-{number}" for number in (4, 3, 2, 1, 0)]


async def test_only_the_newest_ended_operations_are_kept(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "KEPT", 3)
    await journal.add(record("running"))
    for number in range(6):
        done = await journal.add(record(f"ended-{number}"))
        await journal.finish(ended(done, Completed(OperationState.SUCCEEDED)), [])
    assert [one.name for one in await journal.page(0, 99)] == ["ended-5", "ended-4", "ended-3", "running"]


async def test_one_whose_work_is_kept_is_kept(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "KEPT", 1)
    for number in range(3):
        done = await journal.add(record(f"ended-{number}"))
        completed = ended(done, Completed(OperationState.FAILED))
        await journal.finish(msgspec.structs.replace(completed, keeps_work=number == 0), [])
    assert [one.name for one in await journal.keeping_work()] == ["ended-0"]
    assert [one.name for one in await journal.page(0, 99)] == ["ended-2", "ended-0"]
    await journal.forget_work("ended-0")
    assert await journal.keeping_work() == []


async def test_one_that_goes_on_has_not_ended(journal: Journal) -> None:
    done = ended(await journal.add(record("snapshot-1", "id")), Completed(OperationState.FAILED))
    done = msgspec.structs.replace(done, keeps_work=True)
    await journal.finish(done, [LoggedEvent(9, 12, Completed(OperationState.FAILED))])
    again = msgspec.structs.replace(
        done,
        state=OperationState.PENDING,
        path=b"/elsewhere",
        end_time_ns=0,
        last_sequence=20,
        begun="s",
        continuations=1,
        completed=None,
        keeps_work=False,
    )
    await journal.reopen(again)
    assert await journal.unfinished() == [msgspec.structs.replace(again, snapshot="s")]
    assert await journal.history("snapshot-1") == []
    assert await journal.keeping_work() == []


async def test_a_request_id_is_there_once(journal: Journal) -> None:
    await journal.add(record("one", "id"))
    with pytest.raises(JournalError):
        await journal.add(record("two", "id"))
    await journal.add(record("three"))
    await journal.add(record("four"))


@pytest.mark.parametrize("content", [b"this is no database, whatever its name says" * 200])
async def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(JournalError, match="damaged") as raised:
        await Journal(str(tmp_path)).open()
    assert "move the file away" in raised.value.hint


async def test_a_database_that_was_damaged(tmp_path: Path) -> None:
    first = Journal(str(tmp_path))
    await first.open()
    for number in range(200):
        await first.add(record(f"snapshot-{number}"))
    await first.close()
    file = tmp_path / FILE_NAME
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(8192)
        opened.write(b"\xff" * (size - 8192))
    second = Journal(str(tmp_path))
    await second.open()
    with pytest.raises(JournalError, match="damaged"):
        await second.page(0, 200)
    await second.close()


@pytest.mark.parametrize(
    ("column", "content"),
    [("kind", "snapshou"), ("state", ""), ("completed", b"{"), ("completed", b'"\xff"'), ("history", b"[" * 50_000)],
)
async def test_what_sqlite_does_not_see(tmp_path: Path, column: str, content: str | bytes) -> None:
    first = Journal(str(tmp_path))
    await first.open()
    done = await first.add(record("snapshot-1"))
    await first.finish(ended(done, Completed(OperationState.SUCCEEDED)), [])
    await first.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute(f"UPDATE operations SET {column} = ?", (content,))
    second = Journal(str(tmp_path))
    with pytest.raises(JournalError, match="snapshot-1 is damaged") as raised:
        await (second.history("snapshot-1") if column == "history" else second.page(0, 9))
    assert "move the file away" in raised.value.hint
    await second.close()


async def test_a_journal_of_the_first_schema(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.executescript(journal_module._SCHEMA + "PRAGMA user_version = 1;")
        row = "('{0}', 'snapshot', 'running', '', 'd', x'2f', '', x'7b7d', 1, {1}, 2)"
        db.execute(
            "INSERT INTO operations (name, kind, state, request_id, digest, path, snapshot, request, create_time_ns, "
            f"end_time_ns, last_sequence) VALUES {row.format('left', 0)}, {row.format('ended', 9)}"
        )
    upgraded = Journal(str(tmp_path))
    await upgraded.open()
    # Nobody knows whether it came with credentials, so it is not continued without.
    assert [(one.name, one.had_credentials) for one in await upgraded.unfinished()] == [("left", True)]
    ended_before = await upgraded.get("ended")
    assert ended_before is not None
    assert not ended_before.had_credentials
    await upgraded.close()


async def test_a_journal_of_the_second_schema(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.executescript(journal_module._SCHEMA + journal_module._SCHEMA_2 + "PRAGMA user_version = 2;")
        db.execute(
            "INSERT INTO operations (name, kind, state, request_id, digest, path, snapshot, request, create_time_ns, "
            "end_time_ns, last_sequence, begun) VALUES "
            "('left', 'restore', 'running', '', 'd', x'2f', '', x'7b7d', 1, 0, 2, 's')"
        )
    upgraded = Journal(str(tmp_path))
    await upgraded.open()
    [left] = await upgraded.unfinished()
    assert (left.name, left.begun, left.had_credentials, left.keeps_work) == ("left", "s", False, False)
    await upgraded.close()


async def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.executescript(journal_module._SCHEMA + journal_module._SCHEMA_2 + "PRAGMA user_version = 2;")
        # Its name is the one that the upgrade wants in the end.
        db.execute("CREATE TABLE records (number INTEGER)")
    upgraded = Journal(str(tmp_path))
    with pytest.raises(JournalError, match="records"):
        await upgraded.open()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("DROP TABLE records")
    await upgraded.open()
    assert await upgraded.unfinished() == []
    await upgraded.close()


async def test_a_journal_of_a_newer_agent(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="schema 99"):
        await Journal(str(tmp_path)).open()


async def test_a_journal_that_another_program_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "BUSY_SECONDS", 0.05)
    again = Journal(str(tmp_path))
    await again.open()
    other = sqlite3.connect(tmp_path / FILE_NAME)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalError, match="locked"):
        await again.add(record("one"))
    other.close()
    await again.add(record("one"))
    await again.close()


async def test_a_full_disk(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    await journal.open()
    # SQLite's own limit gives the very error that a full disk gives.
    await journal._run(lambda db: db.execute("PRAGMA max_page_count = 8"))
    with pytest.raises(NoSpaceError, match="full"):
        await journal.add(msgspec.structs.replace(record("big"), request=b"x" * 100_000))
    await journal.close()


async def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be used"):
        await Journal(str(tmp_path / "missing")).open()
