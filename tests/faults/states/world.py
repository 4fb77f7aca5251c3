"""One repository on a real S3 server, what is saved there, and operations on it: to their end, or killed somewhere."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from agent.config.model import EngineChoice, ScanConfig, TransferConfig
from agent.events import OperationResult, PipelineEvent, WarningRaised
from agent.maintenance import prune, verify
from agent.maintenance.request import PruneRequest, VerifyRequest
from agent.maintenance.retention import Rules
from agent.operations.request import Request
from agent.repository import keys
from agent.repository.grace import Grace
from agent.repository.model import EntryType
from agent.repository.repository import Repository
from agent.restore import run as restore
from agent.restore.request import IfNotEmpty, RestoreRequest
from agent.snapshot import run as snapshot
from agent.snapshot.request import SnapshotRequest
from agent.storage.open import open_store
from controller_client.demo.compare import Fingerprint
from tests.faults.states.changes import Tree
from tests.faults.states.model import Saved
from tests.faults.states.time_proxy import Moment, Place, TimeProxy
from tests.support.forging import set_grace
from tests.support.processes import wait_until
from tests.support.saved import LARGE
from tests.support.seaweed import SeaweedServer
from tests.support.worker import Worker

GRACE = Grace(23)
"""Short, so that a snapshot waits 5 seconds at most for deletes that may be under way, and longer than operations."""

WORKSPACES = 2


class World:
    """A repository, two workspaces and a target.

    Args:
        folder: an empty folder.
        server: a running server.
        bucket: a bucket there.
    """

    def __init__(self, folder: Path, server: SeaweedServer, bucket: str) -> None:
        self.folder = folder
        direct = server.storage_config(bucket, f"world-{secrets.token_hex(4)}")
        self.proxy = TimeProxy(server.address, direct)
        self.storage = msgspec.structs.replace(direct, endpoint=self.proxy.endpoint)
        self.transfer = TransferConfig(workers=1, connections=4, retry_seconds=30.0)
        self.events: list[PipelineEvent] = []
        self.repository = Repository(open_store(self.storage))
        set_grace(self.repository.store, GRACE)
        self._bucket, self._prefix = bucket, f"{direct.prefix}/"
        self._client = server.client()
        self.target = folder / "target"
        self.workspaces = [Tree(os.fsencode(folder / f"workspace-{number}")) for number in range(WORKSPACES)]
        for workspace in self.workspaces:
            os.mkdir(workspace.root)

    def close(self) -> None:
        """Ends it."""
        self.proxy.deliver_late()
        self.repository.store.close()
        self.proxy.close()
        shutil.rmtree(self.folder)

    # Requests.

    def snapshot(self, workspace: int, *, full: bool = False) -> SnapshotRequest:
        """Returns the request for a snapshot."""
        return SnapshotRequest(
            workspace=self.workspaces[workspace].root,
            staging_dir=self._staging(),
            storage=self.storage,
            transfer=self.transfer,
            scan=ScanConfig(large_file_size=LARGE),
            full=full,
        )

    def restore(
        self, snapshot_id: str, if_not_empty: IfNotEmpty = IfNotEmpty.FAIL, *, checksum: bool = False
    ) -> RestoreRequest:
        """Returns the request for a restore into the target."""
        return RestoreRequest(
            operation=f"restore-{secrets.token_hex(4)}",
            snapshot=snapshot_id,
            target=os.fsencode(self.target),
            staging_dir=self._staging(),
            storage=self.storage,
            transfer=self.transfer,
            if_not_empty=if_not_empty,
            checksum=checksum,
        )

    def verify(self, *, full: bool) -> VerifyRequest:
        """Returns the request for a verification of all snapshots."""
        return VerifyRequest("", full, 0, self._staging(), self.storage, self.transfer)

    def prune(self, rules: Rules | None = None, *, dry_run: bool = False) -> PruneRequest:
        """Returns the request for a prune."""
        return PruneRequest(rules or Rules(), (), (), dry_run, self._staging(), self.storage, self.transfer)

    # Operations.

    def run(self, request: Request) -> OperationResult:
        """Runs an operation in this process, to its end."""
        self.events = []
        emit, cancel = self.events.append, threading.Event()
        try:
            if isinstance(request, SnapshotRequest):
                return snapshot.run(request, emit, cancel)
            if isinstance(request, RestoreRequest):
                return restore.run(request, emit, cancel)
            if isinstance(request, VerifyRequest):
                return verify.run(request, emit, cancel)
            assert isinstance(request, PruneRequest)
            return prune.run(request, emit, cancel)
        finally:
            shutil.rmtree(request.staging_dir)

    def kill(self, request: Request, place: Place, moment: Moment) -> bool:
        """Runs an operation in a process of its own, which is killed at one of its requests; says whether it was."""
        self.proxy.stop_at(place, moment)
        try:
            return self._kill(request, lambda worker: self.proxy.reached.is_set())
        finally:
            self.proxy.stop_no_more()

    def kill_after(self, request: Request, messages: int) -> bool:
        """Runs an operation in a process of its own, which is killed after so many messages; says whether it was."""
        return self._kill(request, lambda worker: worker.messages >= messages)

    def _kill(self, request: Request, is_time: Callable[[Worker], bool]) -> bool:
        worker = Worker(request)
        try:
            wait_until(lambda: is_time(worker) or worker.has_ended, "the moment of a kill, or the end", 120.0)
            is_killed = not worker.has_ended
            worker.close()
            return is_killed
        finally:
            worker.close()
            shutil.rmtree(request.staging_dir)

    def warned(self) -> dict[str, set[bytes]]:
        """Returns the paths that the last operation warned of, by reason."""
        warnings = [event for event in self.events if isinstance(event, WarningRaised)]
        return {warning.reason: set(warning.paths) for warning in warnings}

    @contextmanager
    def engine(self, choice: EngineChoice) -> Iterator[None]:
        """Moves chunks with an engine."""
        before = self.transfer
        self.transfer = msgspec.structs.replace(before, engine=choice)
        try:
            yield
        finally:
            self.transfer = before

    # What is in the store, seen without gpusnap.

    def stored(self) -> dict[str, str]:
        """Returns the tag of every object, by key."""
        found: dict[str, str] = {}
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
            for item in page.get("Contents", ()):
                found[item["Key"].removeprefix(self._prefix)] = item["ETag"]
        return found

    def modified(self, wanted: Container[str]) -> dict[str, int]:
        """Returns when some objects got their bytes, by this machine's clock, by key."""
        store = self.repository.store
        return {found.key: found.modified_s - self.proxy.shift for found in store.list("") if found.key in wanted}

    def read(self, key: str) -> bytes:
        """Returns the bytes of an object."""
        data: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
        return data

    def write(self, key: str, data: bytes) -> None:
        """Stores other bytes under a key."""
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)
        self.proxy.note_write()

    def remove(self, key: str) -> None:
        """Removes an object."""
        self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def bring_back(self, snapshot_id: str) -> None:
        """Undoes the deletion of a snapshot, as the format says."""
        source = {"Bucket": self._bucket, "Key": self._prefix + keys.tombstone(snapshot_id)}
        self._client.copy_object(Bucket=self._bucket, Key=self._prefix + keys.manifest(snapshot_id), CopySource=source)
        self.remove(keys.tombstone(snapshot_id))
        self.proxy.note_write()

    def saved(self, snapshot_id: str, workspace: int, tree: Fingerprint) -> Saved:
        """Returns a new snapshot as it must come back."""
        lines = self.read(keys.chunk_list(snapshot_id)).decode().splitlines()
        manifest = self.repository.manifest(snapshot_id)
        table = [keys.chunk(chunk.id) for chunk in manifest.chunks()]
        assert [f"{self._prefix}{key}" for key in table] == lines
        read = {
            table[number]
            for entry in manifest.entries()
            if entry.type not in (EntryType.DIRECTORY, EntryType.HARD_LINK)
            for number in range(entry.chunk + min(entry.segments, 1), entry.chunk + entry.segments + 1)
        }
        return Saved(workspace, tree, frozenset(table), frozenset(read))

    def empty_target(self) -> None:
        """Removes what was restored."""
        shutil.rmtree(self.target, ignore_errors=True)

    def _staging(self) -> str:
        path = self.folder / f"staging-{secrets.token_hex(4)}"
        path.mkdir()
        return str(path)
