"""Which snapshots and files need the chunks that are damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from agent.errors import DamagedChunk, DamagedSnapshot, DataLossError, SnapshotNotFoundError
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import Entry, EntryType
from agent.repository.presence import Fault
from agent.repository.repository import Repository

MAX_CHUNKS = 100
MAX_SNAPSHOTS = 100
"""Damaged chunks that are named, and snapshots of each of them."""

MAX_PATHS = 100
MAX_PATH_BYTES = 128 << 10
"""Paths that are named for one chunk in one snapshot, and their bytes for one chunk in all of them."""


class BrokenManifest(msgspec.Struct, frozen=True):
    """A snapshot whose manifest is damaged, and what is wrong with it."""

    snapshot_id: str
    problem: str


def broken_manifest(snapshot_id: str, error: DataLossError) -> BrokenManifest:
    """Returns what an error says about the manifest of a snapshot."""
    return BrokenManifest(snapshot_id, f"{snapshot_id}: {error.message.removeprefix(f'{snapshot_id}: ')}")


class Attribution(msgspec.Struct, frozen=True):
    """Who needs what is damaged.

    Attributes:
        chunks: damaged chunks with the snapshots that need them and the files they touch.
        broken: snapshots of which not all files are known, as their manifests are damaged.
    """

    chunks: list[DamagedChunk]
    broken: list[BrokenManifest]


class _Damage:
    """What is known of one damaged chunk."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._snapshots: dict[str, list[bytes]] = {}
        self._room = MAX_PATH_BYTES

    @property
    def is_needed(self) -> bool:
        return bool(self._snapshots)

    def add_snapshot(self, snapshot_id: str) -> None:
        if len(self._snapshots) < MAX_SNAPSHOTS:
            self._snapshots[snapshot_id] = []

    def add_path(self, snapshot_id: str, path: bytes) -> None:
        paths = self._snapshots.get(snapshot_id)
        if paths is not None and len(paths) < MAX_PATHS and self._room > 0:
            self._room -= len(path) + 8
            paths.append(path)

    def as_error(self) -> DamagedChunk:
        paths = dict.fromkeys(path for found in self._snapshots.values() for path in found)
        return DamagedChunk(
            self._fault.chunk.id.hex(),
            self._fault.problem,
            tuple(paths)[:MAX_PATHS],
            tuple(DamagedSnapshot(snapshot_id, tuple(found)) for snapshot_id, found in self._snapshots.items()),
        )


def attribute(
    repository: Repository, faults: Sequence[Fault], snapshot_ids: Iterable[str], check: Callable[[], None]
) -> Attribution:
    """Returns the first ``MAX_CHUNKS`` damaged chunks with the snapshots that need them and the files they touch.

    A chunk that no snapshot needs any more, as its snapshots were deleted meanwhile, is left out.

    Args:
        check: called between steps; may raise to stop.
    """
    damages = {fault.chunk: _Damage(fault) for fault in faults[:MAX_CHUNKS]}
    broken: list[BrokenManifest] = []
    for snapshot_id in snapshot_ids:
        try:
            manifest = repository.manifest(snapshot_id)
            touched = {number: damages[chunk] for number, chunk in enumerate(manifest.chunks()) if chunk in damages}
            for damage in touched.values():
                damage.add_snapshot(snapshot_id)
            for path, damage in _touched_files(manifest, touched, check) if touched else ():
                damage.add_path(snapshot_id, path)
        except SnapshotNotFoundError:
            continue
        except DataLossError as error:
            broken.append(broken_manifest(snapshot_id, error))
    return Attribution([damage.as_error() for damage in damages.values() if damage.is_needed], broken)


def _touched_files(
    manifest: ManifestReader, touched: dict[int, _Damage], check: Callable[[], None]
) -> Iterator[tuple[bytes, _Damage]]:
    """Yields each file with each damaged chunk that it needs; a file with several names under every one of them."""
    groups: dict[int, list[_Damage]] = {}
    for entry in manifest.entries():
        check()
        if entry.type is EntryType.HARD_LINK:
            found = groups.get(entry.hard_link_group, [])
        else:
            found = [] if entry.type is EntryType.DIRECTORY else _damages_of(entry, touched)
            if found and entry.hard_link_group:
                groups[entry.hard_link_group] = found
        for damage in found:
            yield entry.path, damage


def _damages_of(entry: Entry, touched: dict[int, _Damage]) -> list[_Damage]:
    return [touched[number] for number in range(entry.chunk, entry.chunk + entry.segments + 1) if number in touched]
