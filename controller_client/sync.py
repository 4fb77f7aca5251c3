"""The synchronous client of one agent: the same methods, for programs without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from controller_client import client, model
from controller_client.operation import OperationHandle
from controller_client.reattach import ReattachPolicy
from controller_client.reports import KEEP_ALL, KeepRules

_T = TypeVar("_T")
_CLOSE_SECONDS = 10.0


class SyncOperationHandle:
    """``OperationHandle`` for threads: iterate over the events, or wait for the ``result``."""

    def __init__(self, loop: _LoopThread, handle: OperationHandle) -> None:
        self._loop = loop
        self._handle = handle

    @property
    def name(self) -> str:
        """The operation's name."""
        return self._handle.name

    @property
    def last_sequence(self) -> int:
        """The sequence number of the last event that was handed out."""
        return self._handle.last_sequence

    def __iter__(self) -> Iterator[model.Event]:
        return self._loop.iterate(self._handle)

    def result(self) -> model.OperationResult:
        """Waits for the end and returns what the operation did; raises what ``OperationHandle.result`` raises."""
        return self._loop.run(self._handle.result())

    def close(self) -> None:
        """Stops following. The operation goes on."""
        self._loop.run(self._handle.close())

    def __enter__(self) -> SyncOperationHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class SyncAgentClient:
    """A connection to one agent, for threads: any number of them may share it.

    The methods are those of ``AgentClient`` and raise the same errors; lists are plain iterators. It runs an event
    loop in a thread of its own, so it also works inside a program that has a loop (call it from another thread then).

    >>> with SyncAgentClient(address) as client:
    ...     saving = client.snapshot(workspace, exclude=["*.log"])
    ...     saved = saving.result()
    ...     [snapshot.id for snapshot in client.list_snapshots()] == [saved.snapshot_id]
    ...     restored = client.restore("latest", target, paths=[b"notes.txt"]).result()
    ...     restored.totals.files
    True
    1

    Args:
        address: as for ``AgentClient``.
        reattach: as for ``AgentClient``.

    Raises:
        AddressError: the address is malformed.
    """

    def __init__(self, address: str | None = None, *, reattach: ReattachPolicy | None = None) -> None:
        self._loop = _LoopThread()
        try:
            self._client = self._loop.run(_make_client(address, reattach))
        except BaseException:
            self._loop.stop()
            raise

    @property
    def address(self) -> str:
        """The agent's address."""
        return self._client.address

    def __enter__(self) -> SyncAgentClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and ends the thread. Operations go on. Further calls do nothing."""
        if self._loop.running:
            self._loop.run(self._client.close())
            self._loop.stop()

    def snapshot(
        self,
        workspace: str,
        *,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
        exclude_caches: bool = False,
        one_file_system: bool = False,
        full: bool = False,
        storage: model.Storage | None = None,
        request_id: str | None = None,
    ) -> SyncOperationHandle:
        """Starts saving a workspace; see ``AgentClient.snapshot``."""
        start = self._client.snapshot(
            workspace,
            exclude=exclude,
            include=include,
            exclude_caches=exclude_caches,
            one_file_system=one_file_system,
            full=full,
            storage=storage,
            request_id=request_id,
        )
        return SyncOperationHandle(self._loop, self._loop.run(start))

    def restore(
        self,
        snapshot: str,
        target: str,
        *,
        if_not_empty: model.IfNotEmpty = model.IfNotEmpty.FAIL,
        paths: Sequence[bytes] = (),
        checksum: bool = False,
        storage: model.Storage | None = None,
        request_id: str | None = None,
    ) -> SyncOperationHandle:
        """Starts bringing a snapshot back; see ``AgentClient.restore``."""
        start = self._client.restore(
            snapshot,
            target,
            if_not_empty=if_not_empty,
            paths=paths,
            checksum=checksum,
            storage=storage,
            request_id=request_id,
        )
        return SyncOperationHandle(self._loop, self._loop.run(start))

    def verify(
        self,
        snapshot: str = "",
        *,
        full: bool = False,
        bytes_per_second: int = 0,
        storage: model.Storage | None = None,
        request_id: str | None = None,
    ) -> SyncOperationHandle:
        """Starts looking whether everything that snapshots need is in the store; see ``AgentClient.verify``."""
        start = self._client.verify(
            snapshot, full=full, bytes_per_second=bytes_per_second, storage=storage, request_id=request_id
        )
        return SyncOperationHandle(self._loop, self._loop.run(start))

    def prune(
        self,
        rules: KeepRules = KEEP_ALL,
        *,
        hosts: Sequence[str] = (),
        workspaces: Sequence[str] = (),
        dry_run: bool = False,
        storage: model.Storage | None = None,
        request_id: str | None = None,
    ) -> SyncOperationHandle:
        """Starts deleting what the repository does not need any more; see ``AgentClient.prune``."""
        start = self._client.prune(
            rules, hosts=hosts, workspaces=workspaces, dry_run=dry_run, storage=storage, request_id=request_id
        )
        return SyncOperationHandle(self._loop, self._loop.run(start))

    def benchmark(
        self,
        provider: str = "",
        *,
        bytes_: int = 0,
        object_bytes: int = 0,
        rounds: int = 0,
        storage: model.Storage | None = None,
        request_id: str | None = None,
    ) -> SyncOperationHandle:
        """Starts measuring the transfer engines with a store; see ``AgentClient.benchmark``."""
        start = self._client.benchmark(
            provider,
            bytes_=bytes_,
            object_bytes=object_bytes,
            rounds=rounds,
            storage=storage,
            request_id=request_id,
        )
        return SyncOperationHandle(self._loop, self._loop.run(start))

    def watch(self, name: str, after_sequence: int = 0) -> SyncOperationHandle:
        """Attaches to an operation; see ``AgentClient.watch``."""
        return SyncOperationHandle(self._loop, self._loop.run(_watch(self._client, name, after_sequence)))

    def get_operation(self, name: str) -> model.Operation:
        """Returns the present state of one operation; see ``AgentClient.get_operation``."""
        return self._loop.run(self._client.get_operation(name))

    def list_operations(self) -> Iterator[model.Operation]:
        """Yields every operation that the agent remembers, the newest first."""
        return self._loop.iterate(self._client.list_operations())

    def cancel(self, name: str) -> model.Operation:
        """Asks an operation to stop; see ``AgentClient.cancel``."""
        return self._loop.run(self._client.cancel(name))

    def list_snapshots(self, *, storage: model.Storage | None = None) -> Iterator[model.Snapshot]:
        """Yields the committed snapshots, the newest first, without their warnings."""
        return self._loop.iterate(self._client.list_snapshots(storage=storage))

    def get_snapshot(self, snapshot: str, *, storage: model.Storage | None = None) -> model.Snapshot:
        """Returns one snapshot; see ``AgentClient.get_snapshot``."""
        return self._loop.run(self._client.get_snapshot(snapshot, storage=storage))

    def list_files(
        self, snapshot: str, path: bytes = b"", *, storage: model.Storage | None = None
    ) -> Iterator[model.Entry]:
        """Yields the entries of a snapshot in archive order; see ``AgentClient.list_files``."""
        return self._loop.iterate(self._client.list_files(snapshot, path, storage=storage))

    def delete_snapshot(self, snapshot: str, *, storage: model.Storage | None = None) -> str:
        """Deletes a snapshot and returns its id; see ``AgentClient.delete_snapshot``."""
        return self._loop.run(self._client.delete_snapshot(snapshot, storage=storage))

    def info(self) -> model.AgentInfo:
        """Returns what the agent is and how it is configured."""
        return self._loop.run(self._client.info())

    def check_storage(self, *, storage: model.Storage | None = None) -> model.StorageCheck:
        """Lets the agent try its store step by step."""
        return self._loop.run(self._client.check_storage(storage=storage))

    def health(self) -> model.HealthStatus:
        """Returns what the agent's health service answers."""
        return self._loop.run(self._client.health())


async def _make_client(address: str | None, reattach: ReattachPolicy | None) -> client.AgentClient:
    return client.AgentClient(address, reattach=reattach)


async def _watch(agent: client.AgentClient, name: str, after_sequence: int) -> OperationHandle:
    return agent.watch(name, after_sequence)


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gpusnap-client", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether calls are still possible."""
        return self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Runs a coroutine in the loop and waits for it; an interrupted wait cancels it."""
        if not self.running:
            coroutine.close()
            raise RuntimeError("the client is closed")
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("the synchronous client cannot be used from its own event loop")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[_T]) -> Iterator[_T]:
        """Yields the items of an asynchronous iterator."""
        while True:
            try:
                item = self.run(_next(items))
            except StopAsyncIteration:
                return
            yield item

    def stop(self) -> None:
        """Cancels what runs and ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
                self._loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


async def _next(items: AsyncIterator[_T]) -> _T:
    return await items.__anext__()
