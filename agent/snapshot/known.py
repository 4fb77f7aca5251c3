"""What the repository has already: the chunks of committed snapshots, and the parent of a new one."""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.errors import DataLossError, SnapshotNotFoundError
from agent.pipeline.warnings import Warnings
from agent.repository.model import SnapshotSummary
from agent.repository.repository import Repository

MANIFESTS_READ = 64
"""The newest manifests whose chunks count as known; older content is uploaded again, under the same key."""

MANIFESTS_SEARCHED = 1024
"""The newest manifests that are looked at to find the parent: in a repository of many machines it may be far behind."""

READERS = 16


class Known:
    """Chunks that committed snapshots have. Only as many manifests are read as the questions need. For any thread.

    Only what a committed manifest names and no prune has condemned counts as stored: an object that merely exists may
    be about to be removed. A damaged manifest is a warning: its content is stored again.

    Args:
        repository: the repository; its snapshots are listed now.
        condemned: chunks that prunes may delete.
        warnings: told about damage.
    """

    def __init__(self, repository: Repository, condemned: Container[bytes], warnings: Warnings) -> None:
        self._repository = repository
        self._condemned = condemned
        self._warnings = warnings
        self._ids = repository.snapshot_ids()
        self._lock = threading.Lock()
        self._sizes: dict[bytes, int] = {}
        self._read = 0

    def parent(self, host: str, workspace: bytes) -> str:
        """Returns the id of the newest snapshot of a host and workspace; empty if there is none."""
        with self._lock:
            start = 0
            while start < min(len(self._ids), MANIFESTS_SEARCHED):
                # Where one machine uses the repository, the newest snapshot is the parent.
                ids = self._ids[start : start + (READERS if start else 1)]
                for summary in self._summaries(start, ids):
                    if summary.host == host and summary.workspace == workspace:
                        return summary.id
                start += len(ids)
            return ""

    def size(self, chunk_id: bytes) -> int | None:
        """Returns the stored size of a chunk; ``None`` if it is not known."""
        with self._lock:
            while chunk_id not in self._sizes and self._read < min(len(self._ids), MANIFESTS_READ):
                self._summaries(self._read, self._ids[self._read : min(self._read + READERS, MANIFESTS_READ)])
            return self._sizes.get(chunk_id)

    def _summaries(self, start: int, ids: Sequence[str]) -> list[SnapshotSummary]:
        """Reads manifests from the one that is ``start`` in order on, with their chunks if these are to be known."""
        with ThreadPoolExecutor(READERS, thread_name_prefix="known") as pool:
            found = list(pool.map(self._read_one, ids, range(start, start + len(ids))))
        self._read = max(self._read, start + len(ids))
        for _, sizes in filter(None, found):
            self._sizes.update((chunk, size) for chunk, size in sizes.items() if chunk not in self._condemned)
        return [summary for summary, _ in filter(None, found)]

    def _read_one(self, snapshot_id: str, number: int) -> tuple[SnapshotSummary, dict[bytes, int]] | None:
        try:
            manifest = self._repository.manifest(snapshot_id)
            chunks = manifest.chunks() if number < MANIFESTS_READ else []
            return manifest.summary, {chunk.id: chunk.stored_size for chunk in chunks}
        except SnapshotNotFoundError:
            return None
        except DataLossError:
            message = f"the manifest of the earlier snapshot {snapshot_id} is damaged: delete that snapshot"
            self._warnings.add("SNAPSHOT_DAMAGED", message, b"")
            return None
