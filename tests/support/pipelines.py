"""Snapshots and restores in this process, without an agent: as fast as a test of the data plane can be."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from agent.config.model import Provider, ScanConfig, StorageConfig, TransferConfig
from agent.errors import DataLossError
from agent.events import ChunkFinished, OperationResult, PipelineEvent, PruneReport, WarningRaised
from agent.maintenance import prune, verify
from agent.maintenance.request import PruneRequest, VerifyRequest
from agent.maintenance.retention import Rules
from agent.repository import keys
from agent.repository.model import Chunk, Entry
from agent.repository.repository import Repository
from agent.restore import run as restore
from agent.restore.request import IfNotEmpty, RestoreRequest
from agent.snapshot import run as snapshot
from agent.snapshot.look_ahead import looking_ahead
from agent.snapshot.request import SnapshotRequest
from agent.storage.open import open_store

_MEMORY = Path("/dev/shm")


def memory_folder() -> Path:
    """Returns a folder in memory if there is one: a store there is quick, as it need not wait for a disk."""
    return _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


class Pipelines:
    """Runs operations against one repository and keeps what they emit.

    Args:
        folder: an empty folder for the staging folders and (by default) the repository.
        storage: where the repository is; by default a local folder.

    Attributes:
        events: what the last operation emitted.
        new_events: makes the list for the events of the next operation; one that acts when it is appended to is how a
            test gets into the middle of an operation.
    """

    looks_ahead = False
    """Whether snapshots have a lookout, as those of an agent have."""

    def __init__(self, folder: Path, storage: StorageConfig | None = None) -> None:
        self.folder = folder
        self.store_folder = folder / "store"
        if storage is None:
            self.store_folder.mkdir()
            storage = StorageConfig(provider=Provider.LOCAL, endpoint=str(self.store_folder))
        self.storage = storage
        self.transfer = TransferConfig(retry_seconds=5.0)
        self.scan = ScanConfig()
        self.new_events: Callable[[], list[PipelineEvent]] = list
        self.events: list[PipelineEvent] = []
        self.repository = Repository(open_store(storage))

    @classmethod
    def reopen(cls, folder: Path) -> Pipelines:
        """Returns pipelines over the local repository that others made in ``folder``."""
        store = StorageConfig(provider=Provider.LOCAL, endpoint=str(folder / "store"))
        return cls(folder, store)

    def snapshot(
        self,
        workspace: bytes,
        *,
        large_file_size: int = ScanConfig().large_file_size,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
        exclude_caches: bool = False,
        one_file_system: bool = False,
        full: bool = False,
        former: str = "",
        cancel: threading.Event | None = None,
        staging: Path | None = None,
    ) -> OperationResult:
        """Makes a snapshot and returns once it is committed."""
        self.events = self.new_events()
        request = SnapshotRequest(
            workspace=workspace,
            staging_dir=str(staging or self._staging()),
            storage=self.storage,
            transfer=self.transfer,
            scan=msgspec.structs.replace(self.scan, large_file_size=large_file_size),
            exclude=tuple(exclude),
            include=tuple(include),
            exclude_caches=exclude_caches,
            one_file_system=one_file_system,
            full=full,
            former=former,
        )
        with looking_ahead(request) if self.looks_ahead else contextlib.nullcontext() as ahead:
            return snapshot.run(request, self.events.append, cancel or threading.Event(), ahead)

    def restore(
        self,
        target: bytes,
        snapshot_id: str = "latest",
        *,
        if_not_empty: IfNotEmpty = IfNotEmpty.FAIL,
        paths: Sequence[bytes] = (),
        checksum: bool = False,
        cancel: threading.Event | None = None,
        staging: Path | None = None,
    ) -> OperationResult:
        """Restores a snapshot and returns once it is complete."""
        self.events = self.new_events()
        request = RestoreRequest(
            operation="restore-test",
            snapshot=snapshot_id,
            target=target,
            staging_dir=str(staging or self._staging()),
            storage=self.storage,
            transfer=self.transfer,
            if_not_empty=if_not_empty,
            paths=tuple(paths),
            checksum=checksum,
        )
        return restore.run(request, self.events.append, cancel or threading.Event())

    def moved(self) -> set[str]:
        """Returns the ids of the chunks that the last operation moved."""
        return {event.chunk_id for event in self.events if isinstance(event, ChunkFinished)}

    def verify(
        self, snapshot_id: str = "", *, full: bool = False, rate: int = 0, cancel: threading.Event | None = None
    ) -> OperationResult:
        """Verifies one snapshot, or all of them, and returns once all is found in order."""
        self.events = self.new_events()
        request = VerifyRequest(
            snapshot=snapshot_id,
            full=full,
            bytes_per_second=rate,
            staging_dir=str(self._staging()),
            storage=self.storage,
            transfer=self.transfer,
        )
        return verify.run(request, self.events.append, cancel or threading.Event())

    def prune(self, rules: Rules | None = None, *, dry_run: bool = False) -> PruneReport:
        """Prunes and returns what that did."""
        self.events = self.new_events()
        result = prune.run(self.prune_request(rules, dry_run=dry_run), self.events.append, threading.Event())
        assert result.prune is not None
        return result.prune

    def prune_request(self, rules: Rules | None = None, *, dry_run: bool = False) -> PruneRequest:
        """Returns the request for a prune."""
        return PruneRequest(rules or Rules(), (), (), dry_run, str(self._staging()), self.storage, self.transfer)

    def warned(self) -> dict[str, set[bytes]]:
        """Returns the paths that the last operation warned of, by reason."""
        warnings = [event for event in self.events if isinstance(event, WarningRaised)]
        return {warning.reason: set(warning.paths) for warning in warnings}

    def entries(self, snapshot_id: str) -> dict[bytes, Entry]:
        """Returns the entries of a snapshot by path."""
        return {entry.path: entry for entry in self.repository.manifest(snapshot_id).entries()}

    def chunks(self, snapshot_id: str) -> list[Chunk]:
        """Returns the chunk table of a snapshot."""
        return self.repository.manifest(snapshot_id).chunks()

    def chunk_file(self, chunk: Chunk) -> Path:
        """Returns the file of a chunk in the local store."""
        return self.store_folder / keys.chunk(chunk.id)

    def _staging(self) -> Path:
        path = self.folder / f"staging-{secrets.token_hex(4)}"
        path.mkdir()
        return path


def damage_of(error: DataLossError) -> dict[str, set[bytes]]:
    """Returns the paths that an error names, by chunk id."""
    return {item.chunk_id: set(item.paths) for item in error.damaged}


def leftovers(target: bytes) -> list[bytes]:
    """Returns everything below ``target`` that a restore should have removed."""
    return [
        os.path.join(folder, name)
        for folder, folders, files in os.walk(target)
        for name in folders + files
        if name.startswith(b".gpusnap")
    ]
