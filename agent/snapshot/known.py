"""What the repository has already: the chunks of committed snapshots, and the parent of a new one."""

from __future__ import annotations

from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor

import msgspec

from agent.errors import DataLossError, SnapshotNotFoundError
from agent.pipeline.warnings import Warnings
from agent.repository.model import SnapshotSummary
from agent.repository.repository import Repository

MANIFESTS_READ = 64
"""The newest manifests whose chunks count as known; older content is uploaded again, under the same key."""

READERS = 16


class Known(msgspec.Struct, frozen=True):
    """Chunk ids with their stored sizes, and the id of the newest snapshot of the same host and workspace ("")."""

    chunks: dict[bytes, int]
    parent: str


def read_known(
    repository: Repository, host: str, workspace: bytes, condemned: Container[bytes], warnings: Warnings
) -> Known:
    """Reads the newest manifests of the repository. A damaged one is a warning: its content is stored again.

    Only what a committed manifest names and no prune has condemned counts as stored: an object that merely exists may
    be about to be removed.
    """
    ids = repository.snapshot_ids()[:MANIFESTS_READ]
    chunks: dict[bytes, int] = {}
    parent = ""
    with ThreadPoolExecutor(READERS, thread_name_prefix="known") as pool:
        for found in pool.map(lambda snapshot_id: _read(repository, snapshot_id, warnings), ids):
            if found is None:
                continue
            summary, sizes = found
            chunks.update((chunk, size) for chunk, size in sizes.items() if chunk not in condemned)
            if not parent and summary.host == host and summary.workspace == workspace:
                parent = summary.id
    return Known(chunks, parent)


def _read(
    repository: Repository, snapshot_id: str, warnings: Warnings
) -> tuple[SnapshotSummary, dict[bytes, int]] | None:
    try:
        manifest = repository.manifest(snapshot_id)
        return manifest.summary, {chunk.id: chunk.stored_size for chunk in manifest.chunks()}
    except SnapshotNotFoundError:
        return None
    except DataLossError:
        message = f"the manifest of the earlier snapshot {snapshot_id} is damaged: delete that snapshot"
        warnings.add("SNAPSHOT_DAMAGED", message, b"")
        return None
