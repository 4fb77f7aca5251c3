"""What the snapshots of a repository need, read completely or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from agent.errors import DataLossError, SnapshotNotFoundError
from agent.pipeline.warnings import Warnings
from agent.repository import keys
from agent.repository.manifest_reader import ManifestReader
from agent.repository.repository import Repository
from agent.storage.store import ObjectInfo

READ_AT_ONCE = 8
"""Manifests that are read at the same time."""


class Tombstone(msgspec.Struct, frozen=True):
    """The manifest of a deleted snapshot, and when it was put into the trash."""

    snapshot_id: str
    deleted_s: int


class Survey(msgspec.Struct, frozen=True):
    """The repository's snapshots as one listing shows them.

    Attributes:
        manifests: the manifest of every snapshot.
        tombstones: what the trash holds.
        unfinished: lists of chunks without a manifest, by the snapshot's id.
    """

    manifests: list[ManifestReader]
    tombstones: list[Tombstone]
    unfinished: dict[str, ObjectInfo]


def survey(repository: Repository, check: Callable[[], None]) -> Survey:
    """Lists the snapshots and opens every manifest.

    The trash is listed last: a snapshot that is deleted meanwhile is seen there, if not before.

    Args:
        check: called between steps; may raise to stop.

    Raises:
        DataLossError: a manifest is damaged; the message names the snapshot.
        GpusnapError: something cannot be listed or read. Then nothing is known about what is needed.
    """
    lists: dict[str, ObjectInfo] = {}
    # Each once: over plain http a bit that flips may turn one id into another.
    ids: dict[str, None] = {}
    # Twice: a flipped bit would hide a snapshot, and with it all that this one alone needs.
    store = repository.store
    for found in itertools.chain(store.list(keys.SNAPSHOTS), store.list(keys.SNAPSHOTS)):
        snapshot_id = found.key.removeprefix(keys.SNAPSHOTS).partition("/")[0]
        if not keys.is_snapshot_id(snapshot_id):
            continue
        if found.key == keys.manifest(snapshot_id):
            ids[snapshot_id] = None
        elif found.key == keys.chunk_list(snapshot_id):
            lists[snapshot_id] = found

    def read(snapshot_id: str) -> ManifestReader | None:
        check()
        try:
            return repository.manifest(snapshot_id)
        except SnapshotNotFoundError:
            return None  # deleted meanwhile
        except DataLossError as error:
            raise _unreadable(snapshot_id, error) from error

    with ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="manifests") as pool:
        manifests = [manifest for manifest in pool.map(read, ids) if manifest is not None]
    unfinished = {snapshot_id: found for snapshot_id, found in lists.items() if snapshot_id not in ids}
    return Survey(manifests, _tombstones(repository), unfinished)


def _tombstones(repository: Repository) -> list[Tombstone]:
    found: list[Tombstone] = []
    for item in repository.store.list(keys.TRASH):
        snapshot_id = item.key.removeprefix(keys.TRASH).partition("/")[0]
        if keys.is_snapshot_id(snapshot_id) and item.key == keys.tombstone(snapshot_id):
            found.append(Tombstone(snapshot_id, item.modified_s))
    return found


def needed_by(repository: Repository, manifests: Sequence[ManifestReader], check: Callable[[], None]) -> set[bytes]:
    """Returns every chunk that these manifests name; about 120 bytes of memory a chunk.

    Raises:
        DataLossError: a manifest is damaged.
    """
    needed: set[bytes] = set()

    def read(manifest: ManifestReader) -> list[bytes]:
        check()
        try:
            return _ids(manifest)
        except SnapshotNotFoundError:
            # Deleted since it was listed; the trash still says what it needed.
            return _ids_of_deleted(repository, manifest.summary.id)
        except DataLossError as error:
            raise _unreadable(manifest.summary.id, error) from error

    with ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="tables") as pool:
        for start in range(0, len(manifests), READ_AT_ONCE):
            for ids in pool.map(read, manifests[start : start + READ_AT_ONCE]):
                needed.update(ids)
    return needed


def needed_by_deleted(
    repository: Repository, tombstones: Sequence[Tombstone], warnings: Warnings, check: Callable[[], None]
) -> set[bytes]:
    """Returns every chunk that these deleted snapshots name. A damaged one cannot be brought back, so it needs none."""
    needed: set[bytes] = set()
    for tombstone in tombstones:
        check()
        try:
            needed.update(_ids_of_deleted(repository, tombstone.snapshot_id))
        except DataLossError as error:
            warnings.add("SNAPSHOT_DAMAGED", f"the deleted snapshot {error.message}", b"")
    return needed


def _ids(manifest: ManifestReader) -> list[bytes]:
    return [chunk.id for chunk in manifest.each_chunk()]


def _ids_of_deleted(repository: Repository, snapshot_id: str) -> list[bytes]:
    try:
        return _ids(repository.deleted_manifest(snapshot_id))
    except SnapshotNotFoundError:
        return []  # removed by another prune


def _unreadable(snapshot_id: str, error: DataLossError) -> DataLossError:
    message = error.message if snapshot_id in error.message else f"{snapshot_id}: {error.message}"
    return DataLossError(
        message, hint=f"nothing was pruned: what it needs is not known; `gpusnap delete {snapshot_id}` gives it up"
    )
