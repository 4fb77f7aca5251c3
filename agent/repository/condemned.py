"""Records of chunks that will be deleted, for prunes that do it and for snapshots that must not rely on them.

A record is ``condemned/<record id>/chunks``: 16 bytes of MAGIC, the ids (32 bytes each), and the BLAKE3-256 of what
stands before. Beside it ``done`` appears when it was worked off; both are removed later, ``chunks`` first.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable, Sequence

import msgspec
from blake3 import blake3

from agent.errors import DataLossError, ObjectNotFoundError
from agent.repository.grace import Grace
from agent.storage.store import ObjectInfo, Store

CONDEMNED = "condemned/"
MAGIC = b"GPUSNAP-CONDEMND"

IDS_PER_RECORD = 1 << 16
"""A record has 2 MiB at most."""

_ID_BYTES = 32
_MOST_BYTES = len(MAGIC) + (IDS_PER_RECORD + 1) * _ID_BYTES
_RECORD_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}")
_ATTEMPTS = 3
"""A record that arrives damaged is read so often: the damage may be on the way."""

_LISTINGS = 2
_NAMES = ("chunks", "done")


class Record(msgspec.Struct, frozen=True):
    """One record as a listing shows it: when it was written, and when it was worked off (``None``: not yet)."""

    id: str
    written_s: int
    done_s: int | None


def list_records(store: Store) -> list[Record]:
    """Returns all records, the oldest first; what is not a record is left out."""
    return _records_among(store.list(CONDEMNED))


def _records_among(objects: Iterable[ObjectInfo]) -> list[Record]:
    written: dict[str, int] = {}
    done: dict[str, int] = {}
    for found in objects:
        record_id, name = _parse(found)
        if name == "chunks":
            written[record_id] = found.modified_s
        elif name == "done":
            done[record_id] = found.modified_s
    records = [Record(record_id, when, done.get(record_id)) for record_id, when in written.items()]
    return sorted(records, key=lambda record: record.written_s)


def is_open(store: Store, record: Record) -> bool:
    """Says whether a record is still there and not worked off; asks the store now."""
    names = {_parse(found)[1] for found in store.list(f"{CONDEMNED}{record.id}/")}
    return "chunks" in names and "done" not in names


def read_record(store: Store, record: Record) -> list[bytes]:
    """Returns the ids in a record; none if it was removed meanwhile.

    Raises:
        DataLossError: it is damaged.
    """
    for attempt in range(_ATTEMPTS):
        try:
            data = store.read(_chunks(record.id), 0, _MOST_BYTES + 1)
        except ObjectNotFoundError:
            return []
        try:
            return _decode(data, f"{store.location}/{_chunks(record.id)}")
        except DataLossError:
            if attempt + 1 == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def read_all(store: Store, now: int, grace: Grace) -> dict[bytes, int]:
    """Returns every chunk that prunes may delete from now on, and when the first record that says so was written.

    Over plain http a bit that flips in a listing may hide a record behind another key: where one is no record's, or its
    record is not there, all is listed once more.

    Args:
        now: the store's clock.

    Raises:
        DataLossError: a record is damaged.
    """
    found: dict[bytes, int] = {}
    for _ in range(_LISTINGS):
        listed = list(store.list(CONDEMNED))
        is_plain = all(_parse(item)[1] in _NAMES for item in listed)
        for record in _records_among(listed):
            if not _is_settled(record, now, grace):
                chunks = read_record(store, record)
                is_plain = is_plain and bool(chunks)
                for chunk in chunks:
                    found[chunk] = min(record.written_s, found.get(chunk, record.written_s))
        if is_plain:
            break
    return found


def write_records(store: Store, chunks: Sequence[bytes]) -> None:
    """Condemns chunks, in as many records as that takes."""
    for start in range(0, len(chunks), IDS_PER_RECORD):
        record_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(8)}"
        store.write(_chunks(record_id), encode(chunks[start : start + IDS_PER_RECORD]))


def mark_done(store: Store, record: Record) -> None:
    """Says that a record was worked off. Empty, so that its time is that of its appearance."""
    store.write(_done(record.id), b"")


def remove_settled(store: Store, now: int, grace: Grace) -> int:
    """Removes the records that were worked off so long ago that no delete of theirs is under way; returns how many."""
    listed = list(store.list(CONDEMNED))
    records = _records_among(listed)
    settled = [record.id for record in records if _is_settled(record, now, grace)]
    # A removal that was interrupted leaves "done" alone.
    known = {record.id for record in records}
    for found in listed:
        record_id, name = _parse(found)
        if name == "done" and record_id not in known and now - found.modified_s >= grace.settle:
            settled.append(record_id)
    for record_id in settled:
        # What it says first, so that nobody ever sees it open again.
        store.delete(_chunks(record_id))
        store.delete(_done(record_id))
    return len(settled)


def _is_settled(record: Record, now: int, grace: Grace) -> bool:
    return record.done_s is not None and now - record.done_s >= grace.settle


def encode(chunks: Iterable[bytes]) -> bytes:
    """Returns the bytes of a record."""
    body = MAGIC + b"".join(chunks)
    return body + blake3(body).digest()


def _decode(data: bytes, where: str) -> list[bytes]:
    body, digest = data[:-_ID_BYTES], data[-_ID_BYTES:]
    is_whole = len(data) <= _MOST_BYTES and body.startswith(MAGIC) and blake3(body).digest() == digest
    if not is_whole or (len(body) - len(MAGIC)) % _ID_BYTES:
        raise DataLossError(
            f"{where} is damaged", hint="run `gpusnap prune`: it sets the record aside, and nothing else is affected"
        )
    return [body[start : start + _ID_BYTES] for start in range(len(MAGIC), len(body), _ID_BYTES)]


def _parse(found: ObjectInfo) -> tuple[str, str]:
    """Returns the record and the name of an object; both empty for what is none of ours."""
    record_id, _, name = found.key.removeprefix(CONDEMNED).partition("/")
    return (record_id, name) if _RECORD_ID.fullmatch(record_id) else ("", "")


def _chunks(record_id: str) -> str:
    return f"{CONDEMNED}{record_id}/chunks"


def _done(record_id: str) -> str:
    return f"{CONDEMNED}{record_id}/done"
