"""The journal of operations: a SQLite database in the state folder that survives the agent.

All work happens in one thread of its own, so that a slow disk never holds up the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from agent import foreign
from agent.errors import DataLossError, GpusnapError, JournalError, NoSpaceError
from agent.events import Completed, OperationKind, OperationState
from agent.operations.record import LoggedEvent, OperationRecord

SCHEMA_VERSION = 3
"""Kept in SQLite's ``user_version``; a greater one was written by a newer agent."""

FILE_NAME = "journal.sqlite"
"""The database in the state folder."""

KEPT = 1000
"""Operations that have ended and are kept; older ones are forgotten."""

BUSY_SECONDS = 5.0
"""How long a write waits for another program that has the database open, such as a backup."""

_SCHEMA = """
CREATE TABLE operations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    path BLOB NOT NULL,
    snapshot TEXT NOT NULL,
    request BLOB NOT NULL,
    create_time_ns INTEGER NOT NULL,
    end_time_ns INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    completed BLOB,
    history BLOB
);
CREATE UNIQUE INDEX operations_request_id ON operations (request_id) WHERE request_id <> '';
"""

_SCHEMA_2 = """
ALTER TABLE operations ADD COLUMN had_credentials INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operations ADD COLUMN begun TEXT NOT NULL DEFAULT '';
ALTER TABLE operations ADD COLUMN continuations INTEGER NOT NULL DEFAULT 0;
"""
_SCHEMA_3 = """
ALTER TABLE operations ADD COLUMN keeps_work INTEGER NOT NULL DEFAULT 0;
DROP VIEW IF EXISTS records;
CREATE VIEW records AS SELECT
    number, name, kind, state, request_id, digest, path, snapshot, request, create_time_ns, end_time_ns, last_sequence,
    completed, had_credentials, begun, continuations, keeps_work
FROM operations;
"""
# The first version did not write whether a request came with credentials, so what it left is taken to have had some.
_LEFT_BY_1 = "UPDATE operations SET had_credentials = 1 WHERE end_time_ns = 0;"
_STEPS = {0: _SCHEMA + _SCHEMA_2 + _SCHEMA_3, 1: _SCHEMA_2 + _LEFT_BY_1 + _SCHEMA_3, 2: _SCHEMA_3}

_MOVE_AWAY = "move the file away: a new journal is begun, and snapshots are not affected"

_completed_decoder = msgspec.json.Decoder(Completed)
_history_decoder = msgspec.json.Decoder(list[LoggedEvent])

_Row = tuple[int, str, str, str, str, str, bytes, str, bytes, int, int, int, bytes | None, int, str, int, int]
_T = TypeVar("_T")


class Journal:
    """The journal in one state folder; ``open`` comes first and ``close`` last.

    Every method may raise JournalError (the database cannot be used) or NoSpaceError (its disk is full). An end that
    cannot be written is kept in memory, and is written as soon as the journal is used and can be written again.

    Args:
        state_dir: an existing folder that belongs to this agent alone.
    """

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE_NAME)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._connection: sqlite3.Connection | None = None
        # No more than operations that ran when the disk failed: none is accepted then.
        self._owed: deque[tuple[OperationRecord, Sequence[LoggedEvent]]] = deque()

    async def open(self) -> None:
        """Opens the database and makes it when it is missing."""
        await self._run(lambda db: None)

    async def close(self) -> None:
        """Closes the database once everything asked for before is done."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def add(self, record: OperationRecord) -> OperationRecord:
        """Writes a new operation and returns it with its number."""
        return await self._run(lambda db: _add(db, record))

    async def update(self, record: OperationRecord) -> None:
        """Writes what may change of an operation that has not ended; does nothing once it has."""
        await self._run(lambda db: _update(db, record))

    async def finish(self, record: OperationRecord, history: Sequence[LoggedEvent]) -> None:
        """Writes the end of an operation and forgets the oldest ones beyond ``KEPT``."""
        self._owed.append((record, history))
        await self._run(self._settle)

    async def reopen(self, record: OperationRecord) -> None:
        """Writes that an operation which had ended goes on."""
        await self._run(lambda db: _reopen(db, record))

    async def get(self, name: str) -> OperationRecord | None:
        """Returns one operation by its name."""
        return await self._run(lambda db: _find(db, "SELECT * FROM records WHERE name = ?", name))

    async def by_request_id(self, request_id: str) -> OperationRecord | None:
        """Returns the operation that was started with a request id (which is not empty)."""
        return await self._run(lambda db: _find(db, "SELECT * FROM records WHERE request_id = ?", request_id))

    async def history(self, name: str) -> list[LoggedEvent]:
        """Returns the kept events of an operation that has ended."""
        return await self._run(lambda db: _history(db, name))

    async def page(self, before: int, limit: int) -> list[OperationRecord]:
        """Returns at most ``limit`` operations with a smaller number, the newest first; 0 begins at the newest."""
        return await self._run(lambda db: _page(db, before, limit))

    async def ended(self, kind: OperationKind) -> list[str]:
        """Returns the names of the operations of a kind that have ended."""
        return await self._run(lambda db: _ended(db, kind))

    async def unfinished(self) -> list[OperationRecord]:
        """Returns the operations that have not ended, the oldest first."""
        return await self._run(lambda db: _listed(db, "end_time_ns = 0"))

    async def keeping_work(self) -> list[OperationRecord]:
        """Returns the operations that have ended and whose work is kept, the oldest first."""
        return await self._run(lambda db: _listed(db, "keeps_work = 1 AND end_time_ns > 0"))

    async def forget_work(self, name: str) -> None:
        """Writes that the work of an operation that has ended is not kept any more."""
        await self._run(lambda db: db.execute("UPDATE operations SET keeps_work = 0 WHERE name = ?", (name,)))

    async def restores_since(self, number: int) -> list[OperationRecord]:
        """Returns the restores accepted after the operation of this number that have begun to write."""
        restore = OperationKind.RESTORE.value
        return await self._run(lambda db: _listed(db, "kind = ? AND number > ? AND begun <> ''", restore, number))

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._explained, work)

    def _explained(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            if self._connection is None:
                self._connection = _connect(self._path)
            with contextlib.suppress(sqlite3.Error):
                self._settle(self._connection)
            with self._connection:
                return work(self._connection)
        except sqlite3.Error as error:
            raise _explain(self._path, error) from error
        except DataLossError as error:
            # SQLite does not notice every byte that a disk has changed.
            raise JournalError(f"the journal {self._path}: {error.message}", hint=_MOVE_AWAY) from error

    def _settle(self, db: sqlite3.Connection) -> None:
        """Writes the ends that are still to be written."""
        while self._owed:
            with db:
                _finish(db, *self._owed[0])
            self._owed.popleft()

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._settle(self._connection)
            self._connection.close()
            self._connection = None


def _connect(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"the journal {path} has schema {version}, and this agent knows none above {SCHEMA_VERSION}",
                hint="use the newer agent, or another [agent] state_dir",
            )
        if version in _STEPS:
            db.executescript(f"BEGIN; {_STEPS[version]} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db


def _explain(path: str, error: sqlite3.Error) -> GpusnapError:
    """Returns what an error of SQLite means to a person. Its classes are too coarse: the text tells more."""
    text = str(error)
    if "full" in text or ("disk I/O" in text and _is_full(path)):
        return NoSpaceError(f"the disk of the journal {path} is full", hint="free space in [agent] state_dir")
    if "locked" in text:
        return JournalError(f"the journal {path} is locked by another program", hint="end that program")
    if "not a database" in text or "malformed" in text:
        return JournalError(
            f"the journal {path} is damaged ({text})",
            hint=_MOVE_AWAY,
        )
    return JournalError(f"the journal {path} cannot be used: {text}")


def _is_full(path: str) -> bool:
    """Says whether there is no room beside a file: SQLite does not always say so."""
    try:
        return os.statvfs(os.path.dirname(path)).f_bavail == 0
    except OSError:
        return False


def _record(row: _Row) -> OperationRecord:
    (
        number,
        name,
        kind,
        state,
        request_id,
        digest,
        path,
        snapshot,
        request,
        created,
        end,
        last,
        done,
        had,
        begun,
        times,
        keeps,
    ) = row
    try:
        of_kind, in_state = OperationKind(kind), OperationState(state)
    except ValueError as error:
        raise DataLossError(f"what it says of {name} is damaged: {error}") from error
    return OperationRecord(
        name=name,
        kind=of_kind,
        state=in_state,
        request_id=request_id,
        digest=digest,
        path=path,
        snapshot=snapshot,
        request=request,
        create_time_ns=created,
        end_time_ns=end,
        last_sequence=last,
        completed=None if done is None else foreign.decode(done, _completed_decoder, f"the end of {name}"),
        number=number,
        had_credentials=bool(had),
        begun=begun,
        continuations=times,
        keeps_work=bool(keeps),
    )


def _add(db: sqlite3.Connection, record: OperationRecord) -> OperationRecord:
    cursor = db.execute(
        "INSERT INTO operations (name, kind, state, request_id, digest, path, snapshot, request, create_time_ns, "
        "end_time_ns, last_sequence, had_credentials) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
        (
            record.name,
            record.kind.value,
            record.state.value,
            record.request_id,
            record.digest,
            record.path,
            record.snapshot,
            record.request,
            record.create_time_ns,
            record.last_sequence,
            record.had_credentials,
        ),
    )
    return msgspec.structs.replace(record, number=cursor.lastrowid or 0)


def _update(db: sqlite3.Connection, record: OperationRecord) -> None:
    db.execute(
        "UPDATE operations SET state = ?, last_sequence = ?, begun = ?, continuations = ? "
        "WHERE name = ? AND end_time_ns = 0",
        (record.state.value, record.last_sequence, record.begun, record.continuations, record.name),
    )


def _finish(db: sqlite3.Connection, record: OperationRecord, history: Sequence[LoggedEvent]) -> None:
    db.execute(
        "UPDATE operations SET state = ?, snapshot = ?, end_time_ns = ?, last_sequence = ?, completed = ?, "
        "history = ?, keeps_work = ? WHERE name = ?",
        (
            record.state.value,
            record.snapshot,
            record.end_time_ns,
            record.last_sequence,
            msgspec.json.encode(record.completed),
            msgspec.json.encode(history),
            record.keeps_work,
            record.name,
        ),
    )
    # Nobody else knows what is to be removed once it was kept for long enough.
    db.execute(
        "DELETE FROM operations WHERE end_time_ns > 0 AND keeps_work = 0 AND number <= ("
        "SELECT number FROM operations WHERE end_time_ns > 0 ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (KEPT,),
    )


def _reopen(db: sqlite3.Connection, record: OperationRecord) -> None:
    db.execute(
        "UPDATE operations SET state = ?, path = ?, end_time_ns = 0, last_sequence = ?, begun = ?, continuations = ?, "
        "keeps_work = 0, completed = NULL, history = NULL WHERE name = ?",
        (record.state.value, record.path, record.last_sequence, record.begun, record.continuations, record.name),
    )


def _find(db: sqlite3.Connection, query: str, value: str) -> OperationRecord | None:
    row = db.execute(query, (value,)).fetchone()
    return None if row is None else _record(row)


def _page(db: sqlite3.Connection, before: int, limit: int) -> list[OperationRecord]:
    query = "SELECT * FROM records WHERE ? = 0 OR number < ? ORDER BY number DESC LIMIT ?"
    return [_record(row) for row in db.execute(query, (before, before, limit))]


def _ended(db: sqlite3.Connection, kind: OperationKind) -> list[str]:
    query = "SELECT name FROM operations WHERE kind = ? AND end_time_ns > 0"
    return [name for (name,) in db.execute(query, (kind.value,))]


def _listed(db: sqlite3.Connection, condition: str, *values: object) -> list[OperationRecord]:
    query = f"SELECT * FROM records WHERE {condition} ORDER BY number"  # noqa: S608 - the conditions are those above
    return [_record(row) for row in db.execute(query, values)]


def _history(db: sqlite3.Connection, name: str) -> list[LoggedEvent]:
    row = db.execute("SELECT history FROM operations WHERE name = ?", (name,)).fetchone()
    return [] if row is None or row[0] is None else foreign.decode(row[0], _history_decoder, f"the events of {name}")
