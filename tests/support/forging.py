"""Snapshots that no snapshot operation would make: their manifests are written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from blake3 import blake3

from agent.errors import DataLossError
from agent.events import ChunkKind, ScanTotals
from agent.repository import keys
from agent.repository.frame import encode
from agent.repository.grace import Grace
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Chunk, Entry, EntryType, ManifestWarning, SnapshotSummary
from agent.repository.repository import Repository
from agent.repository.tar import END_OF_ARCHIVE
from agent.storage.store import Store

SNAPSHOT_ID = "20261123T110512Z-4f2a9c01"


def directory(path: bytes, **fields: object) -> Entry:
    """Returns the entry of a directory."""
    return _entry(path, EntryType.DIRECTORY, 0o755, fields)


def file(path: bytes, offset: int = 0, stored: int = 0, **fields: object) -> Entry:
    """Returns the entry of a file whose content is the ``stored`` bytes from ``offset`` of its pack."""
    content = {"size": stored, "data_size": stored, "data_offset": offset}
    return _entry(path, EntryType.FILE, 0o644, {**content, **fields})


def symlink(path: bytes, target: bytes, **fields: object) -> Entry:
    """Returns the entry of a symbolic link."""
    return _entry(path, EntryType.SYMLINK, 0o777, {"link_target": target, **fields})


def hard_link(path: bytes, target: bytes, group: int = 1, **fields: object) -> Entry:
    """Returns the entry of a further name."""
    return _entry(path, EntryType.HARD_LINK, 0o644, {"link_target": target, "hard_link_group": group, **fields})


def _entry(path: bytes, kind: EntryType, mode: int, fields: dict[str, object]) -> Entry:
    plain = Entry(path=path, type=kind, mode=mode, uid=0, gid=0, mtime_ns=0)
    return msgspec.structs.replace(plain, **fields)


def summary(snapshot_id: str = SNAPSHOT_ID, host: str = "host") -> SnapshotSummary:
    """Returns a summary that says nothing of interest."""
    return SnapshotSummary(
        id=snapshot_id,
        parent="",
        host=host,
        workspace=b"/workspace",
        start_time_ns=1,
        commit_time_ns=2,
        agent_version="0",
        totals=ScanTotals(complete=True),
        chunks=0,
        raw_bytes=0,
        stored_bytes=0,
        warnings=0,
    )


def chunk(raw: bytes, kind: ChunkKind = ChunkKind.PACK) -> Chunk:
    """Returns the row of a chunk table for these raw bytes."""
    return Chunk(blake3(raw).digest(), len(raw), len(frame(raw)), kind)


def set_grace(store: Store, grace: Grace) -> None:
    """Makes the repository in a store, if there is none yet, and gives it a grace."""
    info = msgspec.structs.replace(Repository(store).ensure(), grace_seconds=grace.seconds)
    store.write(keys.REPOSITORY, msgspec.json.encode(info))


def frame(raw: bytes) -> bytes:
    """Returns the object of a chunk."""
    return encode(raw)


def manifest(
    path: Path,
    entries: Sequence[Entry],
    chunks: Sequence[Chunk],
    *,
    snapshot_id: str = SNAPSHOT_ID,
    host: str = "host",
    warnings: Sequence[ManifestWarning] = (),
) -> bytes:
    """Writes a manifest to a local file and returns its bytes."""
    with path.open("wb") as target:
        writer = ManifestWriter(target)
        for entry in entries:
            writer.add_entry(entry)
        writer.finish(summary(snapshot_id, host), list(chunks), list(warnings))
    return path.read_bytes()


def store_snapshot(
    repository: Repository,
    scratch: Path,
    entries: Sequence[Entry],
    raw_chunks: Sequence[tuple[bytes, ChunkKind]],
    snapshot_id: str = SNAPSHOT_ID,
) -> str:
    """Commits a snapshot with these entries and chunks, and returns its id."""
    repository.ensure()
    rows = [chunk(raw, kind) for raw, kind in (*raw_chunks, (END_OF_ARCHIVE, ChunkKind.END))]
    for raw, kind in raw_chunks:
        repository.store.write(keys.chunk(chunk(raw, kind).id), frame(raw))
    repository.store.write(keys.manifest(snapshot_id), manifest(scratch, entries, rows, snapshot_id=snapshot_id))
    return snapshot_id


def refuse(error: DataLossError) -> None:
    """Takes damage as what must not be."""
    raise error
