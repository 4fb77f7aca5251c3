"""Small files that others wrote, or that a store or a disk has damaged: what they do not say right is told or left
alone, and nothing else fails for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import strategies as st

from agent.config.model import Provider, StorageConfig
from agent.errors import DataLossError, GpusnapError, JournalError, RepositoryVersionError
from agent.events import Completed, Direction, Measurement, OperationKind, OperationResult, OperationState
from agent.operations import journal as journal_module
from agent.operations import measured
from agent.operations.journal import Journal
from agent.operations.measured import MeasuredStores
from agent.operations.order import SnapshotOrder, from_journal, without_credentials
from agent.operations.record import LoggedEvent, OperationRecord
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.repository import condemned, keys
from agent.repository.condemned import Record
from agent.repository.repository import Repository, RepositoryInfo
from agent.restore import origin as origin_module
from agent.restore.origin import Origin, read_origin
from agent.rpc import convert_engines
from agent.snapshot.interrupted import Interrupted, Marker
from agent.storage.choice import choose
from tests.support.fuzz import fuzz
from tests.support.mutate import mutated
from tests.support.pipelines import memory_folder
from tests.support.virtual_store import Objects, VirtualStore

MINE, OTHER = "20261123T110512Z-00000001", "20261123T110511Z-00000002"
MARKER = Marker("host", b"/workspace/\xff")
RECORD = Record("20261123T110512Z-0123456789abcdef", 1, None)
IDS = [bytes([number]) * 32 for number in range(4)]
STORE = StorageConfig(Provider.CUSTOM, "bucket", endpoint="http://127.0.0.1:1")
MEASURED = Measurement("stream", Direction.DOWNLOAD, 1.5e9, 1_700_000_000_000_000_000, 0.5, "bench-1")

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([2**63, -(2**63), 2**90]),
)
FIELDS = [
    *("host", "workspace", "snapshot", "boot", "version", "stores", "place", "endpoint", "bucket", "measurements"),
    *("engine", "direction", "bytes_per_second", "time_ns", "format_version", "id", "chunk_size", "created", "type"),
    *("grace_seconds", "encryption", "state", "error", "result", "sequence", "event", "request_id", "storage"),
]
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=8,
)
DEEP = st.builds(
    lambda before, start, depth: before + start * depth,
    st.sampled_from([b"", *(b'{"%s":' % name.encode() for name in FIELDS)]),
    st.sampled_from([b"[", b'{"a":', b'{"x":[']),
    st.sampled_from([10, 2000, 100_000]),
)
ODD = st.sampled_from(
    [
        b"",
        b"\xff",
        b'{"host":"\xff"}',
        b'{"host":"\\ud800","workspace":""}',
        b"1e400",
        b"9" * 5000,
        b'"' + b"x" * 99_999,
    ]
)


def documents(*valid: bytes) -> st.SearchStrategy[bytes]:
    """Returns what may stand in a file: the right thing, that with changes, other JSON, and what is no JSON."""
    right = st.sampled_from(valid)
    return st.one_of(
        changed(*valid),
        VALUES.map(lambda value: json.dumps(value).encode()),
        st.builds(_with_field, right, st.sampled_from(FIELDS), VALUES),
        DEEP,
        ODD,
    )


def changed(*valid: bytes) -> st.SearchStrategy[bytes]:
    """Returns the right thing, that with changes, and any bytes."""
    right = st.sampled_from(valid)
    return st.one_of(right, st.builds(mutated, right, st.randoms(use_true_random=False)), st.binary(max_size=80))


def _with_field(valid: bytes, name: str, value: object) -> bytes:
    """Sets every field of a name to a value, wherever it stands."""
    return json.dumps(_replaced(json.loads(valid), name, value)).encode()


def _replaced(document: object, name: str, value: object) -> object:
    if isinstance(document, dict):
        return {key: value if key == name else _replaced(item, name, value) for key, item in document.items()}
    if isinstance(document, list):
        return [_replaced(item, name, value) for item in document]
    return document


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as path:
        yield Path(path)


@fuzz(800, content=documents(msgspec.json.encode(MARKER), msgspec.json.encode(Marker("host", b"/other"))))
def test_markers_of_others_do_not_disturb_a_snapshot(content: bytes) -> None:
    objects = Objects()
    store = VirtualStore(objects)
    store.write(keys.running(OTHER), content)
    snapshot = Interrupted(store, MINE, MARKER)
    assert snapshot.begin().has_others
    # The snapshot is committed by now: it must not fail for another one's marker.
    snapshot.end()
    try:
        is_same = msgspec.json.decode(content, type=Marker) == MARKER
    except (msgspec.MsgspecError, ValueError, RecursionError):
        is_same = False
    assert objects.keys(keys.RUNNING) == ([] if is_same else [keys.running(OTHER)])


@fuzz(
    800,
    content=st.one_of(
        changed(condemned.encode(IDS), condemned.encode(IDS[:1])),
        st.binary(max_size=99).map(lambda body: condemned.encode([body])),
        st.integers(65_530, 65_545).map(lambda count: condemned.encode(IDS[:1] * count)),
    ),
)
def test_records_of_condemned_chunks(content: bytes) -> None:
    store = VirtualStore(Objects())
    store.write(f"{condemned.CONDEMNED}{RECORD.id}/chunks", content)
    try:
        found = condemned.read_record(store, RECORD)
    except DataLossError as error:
        assert "\n" not in error.message
        assert RECORD.id in error.message
        return
    assert condemned.encode(found) == content
    assert all(len(chunk) == 32 for chunk in found)
    assert len(found) <= condemned.IDS_PER_RECORD


@fuzz(800, content=documents(msgspec.json.encode(RepositoryInfo(1, "ab" * 16, 64 << 20, "2026-11-23T11:05:12Z"))))
def test_what_a_repository_says_of_itself(content: bytes) -> None:
    store = VirtualStore(Objects())
    store.write(keys.REPOSITORY, content)
    try:
        found = Repository(store).info()
    except (DataLossError, RepositoryVersionError) as error:
        assert error.message.isprintable()
        return
    assert found is not None
    assert found.grace.settle > 0


@fuzz(800, content=documents(msgspec.json.encode(Origin(MINE, "boot"))))
def test_what_unfinished_files_belong_to(folder: Path, content: bytes) -> None:
    (folder / os.fsdecode(origin_module.FILE_NAME)).write_bytes(content)
    fd = os.open(folder, DIRECTORY_FLAGS)
    try:
        found = read_origin(fd)
    finally:
        os.close(fd)
    assert found is None or msgspec.json.decode(msgspec.json.encode(found), type=Origin) == found


def _kept(*items: Measurement) -> bytes:
    place = measured._place(STORE)
    kept = measured._File(measured._VERSION, (measured._Store(place, items),))
    return msgspec.json.encode(kept)


@fuzz(500, content=documents(_kept(MEASURED), _kept(MEASURED, msgspec.structs.replace(MEASURED, engine="s5cmd"))))
def test_what_is_known_of_engines(folder: Path, content: bytes) -> None:
    (folder / measured.FILE_NAME).write_bytes(content)
    stores = MeasuredStores(str(folder))
    asyncio.run(stores.load())
    found = stores.of(STORE)
    choice = choose(found, Direction.DOWNLOAD)
    for item in found:
        convert_engines.measurement(item)
    if choice is not None:
        convert_engines.engine_use(Direction.DOWNLOAD, choice, found).SerializeToString()
    asyncio.run(stores.save())


ORDER = SnapshotOrder("id", "/workspace", ("*.tmp",), storage=STORE)
COMPLETED = Completed(OperationState.SUCCEEDED, result=OperationResult(MINE))
HISTORY = [LoggedEvent(1, 2, COMPLETED)]


@fuzz(800, content=documents(without_credentials(ORDER)))
def test_requests_in_the_journal(content: bytes) -> None:
    try:
        from_journal(content)
    except JournalError as error:
        assert error.message.isprintable()


@pytest.fixture(scope="module")
def journal(folder: Path) -> Path:
    """The file of a journal that holds one operation."""
    state = OperationState.SUCCEEDED
    record = OperationRecord("snapshot-1", OperationKind.SNAPSHOT, state, "", "d", b"/w", "", b"{}", 1)

    async def fill() -> None:
        made = Journal(str(folder))
        await made.open()
        await made.finish(msgspec.structs.replace(await made.add(record), completed=COMPLETED, end_time_ns=2), HISTORY)
        await made.close()

    asyncio.run(fill())
    return folder / journal_module.FILE_NAME


CELLS = st.one_of(
    st.tuples(
        st.sampled_from(["completed", "history"]),
        documents(msgspec.json.encode(COMPLETED), msgspec.json.encode(HISTORY)),
    ),
    st.tuples(
        st.sampled_from(["kind", "state"]), st.sampled_from(["snapshot", "running", "succeeded", "snapshou", ""])
    ),
)


@fuzz(400, cell=CELLS)
def test_a_journal_whose_rows_say_anything(folder: Path, journal: Path, cell: tuple[str, bytes | str]) -> None:
    column, content = cell
    db = sqlite3.connect(journal)
    with db:
        before = db.execute(f"SELECT {column} FROM operations").fetchone()
        db.execute(f"UPDATE operations SET {column} = ?", (content,))

    async def read() -> None:
        opened = Journal(str(folder))
        for ask in (opened.page(0, 9), opened.unfinished(), opened.get("snapshot-1"), opened.history("snapshot-1")):
            try:
                await ask
            except GpusnapError as error:
                assert isinstance(error, JournalError)
                assert "snapshot-1" in error.message
                assert "\n" not in error.message
        await opened.close()

    try:
        asyncio.run(read())
    finally:
        with db:
            db.execute(f"UPDATE operations SET {column} = ?", before)
        db.close()
