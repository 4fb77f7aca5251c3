"""The asynchronous client of one agent."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc
import grpc.aio
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller_client import convert, model
from controller_client.address import find_address, parse_address
from controller_client.channel import open_channel
from controller_client.errors import AgentUnreachableError
from controller_client.operation import EventStream, OperationHandle
from controller_client.reattach import Outage, ReattachPolicy
from controller_client.reports import KEEP_ALL, KeepRules
from controller_client.status import from_rpc_error

if TYPE_CHECKING:
    from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentAsyncStub

SERVICE = "gpusnap.v1.SnapshotAgent"
CALL_SECONDS = 30.0
"""The deadline of a unary call that stays on the agent's machine."""
STORE_SECONDS = 120.0
"""The deadline of a unary call for which the agent asks its store: its own retries last 60 s by default."""
FILES_PAGE = 5000
"""Entries a page: about 0.5 MB of messages, so the agent's next page takes a few milliseconds."""

_Answer = TypeVar("_Answer")
_Request = TypeVar("_Request")


class _EventMessage(Protocol):
    """A response that carries one event."""

    @property
    def event(self) -> pb.Event: ...


_Response = TypeVar("_Response", bound=_EventMessage)


class AgentClient:
    """A connection to one agent, for asyncio.

    Every start carries a request id, so a start that is tried again after a lost connection never starts twice.
    Lists fetch their pages as they are read. Use it in the event loop it was made in.

    >>> import asyncio
    >>> async def main() -> None:
    ...     async with AgentClient(address) as client:
    ...         saving = await client.snapshot(workspace)
    ...         async for event in saving:
    ...             if isinstance(event.detail, model.Progress):
    ...                 pass  # event.detail.stages says how far every stage is
    ...         saved = await saving.result()
    ...         print(saved.totals.files, "files,", saved.warnings, "warnings")
    ...
    ...         restoring = await client.restore(saved.snapshot_id, target)
    ...         restored = await restoring.result()
    ...         print(restored.snapshot_id == saved.snapshot_id)
    ...
    ...         print([entry.path async for entry in client.list_files("latest")])
    >>> asyncio.run(main())
    2 files, 0 warnings
    True
    [b'', b'model.safetensors', b'notes.txt']

    Args:
        address: ``HOST:PORT`` or ``unix:PATH``; by default GPUSNAP_AGENT_ADDRESS, else the socket
            /run/gpusnap/agent.sock if it exists, else 127.0.0.1:7447.
        reattach: how a lost connection is taken up again.

    Raises:
        AddressError: the address is malformed.
    """

    def __init__(self, address: str | None = None, *, reattach: ReattachPolicy | None = None) -> None:
        self.address = find_address(address)
        self._policy = reattach or ReattachPolicy()
        self._channel = open_channel(parse_address(self.address))
        self._stub: SnapshotAgentAsyncStub = SnapshotAgentStub(self._channel)

    async def __aenter__(self) -> AgentClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Operations go on."""
        await self._channel.close()

    async def snapshot(
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
    ) -> OperationHandle:
        """Starts saving a workspace; returns when the agent has accepted it.

        Args:
            workspace: the absolute path on the agent's machine.
            exclude: gitignore patterns of what to leave out.
            include: gitignore patterns of what to keep; empty for everything.
            exclude_caches: leave out caches that can be downloaded again.
            one_file_system: do not descend into other file systems.
            full: read every file, also those that have not changed since the snapshot before.
            storage: the repository; ``None`` for the agent's configured one.
            request_id: an id that attaches to the operation it started before; ``None`` for a new operation.

        Raises:
            GpusnapError: the agent refused it; AgentUnreachableError if it could not be asked.
        """
        request = pb.SnapshotRequest(
            request_id=request_id or new_request_id(),
            workspace=workspace,
            exclude=exclude,
            include=include,
            exclude_caches=exclude_caches,
            one_file_system=one_file_system,
            full=full,
            storage=convert.storage_message(storage),
        )
        return await self._start(lambda: _events(self._stub.Snapshot(request)))

    async def restore(
        self,
        snapshot: str,
        target: str,
        *,
        if_not_empty: model.IfNotEmpty = model.IfNotEmpty.FAIL,
        paths: Sequence[bytes] = (),
        checksum: bool = False,
        storage: model.Storage | None = None,
        request_id: str | None = None,
    ) -> OperationHandle:
        """Starts bringing a snapshot back; returns when the agent has accepted it.

        Args:
            snapshot: the snapshot's id, a unique prefix of it, or "latest".
            target: the absolute path on the agent's machine to restore into; made when missing.
            if_not_empty: what to do when the target is not empty.
            paths: paths to restore, relative to the workspace; empty for everything.
            checksum: compare the content of files that are in the target, instead of trusting their size and time.
            storage: the repository; ``None`` for the agent's configured one.
            request_id: an id that attaches to the operation it started before; ``None`` for a new operation.

        Raises:
            GpusnapError: the agent refused it; AgentUnreachableError if it could not be asked.
        """
        request = pb.RestoreRequest(
            request_id=request_id or new_request_id(),
            snapshot=snapshot,
            target=target,
            if_not_empty=convert.if_not_empty_number(if_not_empty),
            paths=paths,
            checksum=checksum,
            storage=convert.storage_message(storage),
        )
        return await self._start(lambda: _events(self._stub.Restore(request)))

    async def verify(
        self,
        snapshot: str = "",
        *,
        full: bool = False,
        bytes_per_second: int = 0,
        storage: model.Storage | None = None,
        request_id: str | None = None,
    ) -> OperationHandle:
        """Starts looking whether everything that snapshots need is in the store; writes nothing.

        The handle's ``result`` raises DataLossError if something is damaged or missing; its ``damaged`` says what, and
        which snapshots and files need it.

        Args:
            snapshot: the snapshot's id, a unique prefix of it, or "latest"; empty for all snapshots.
            full: read every chunk and hash it, instead of only looking whether it is there with its size.
            bytes_per_second: stored bytes that are read a second at most; 0 for as fast as it goes.
            storage: the repository; ``None`` for the agent's configured one.
            request_id: an id that attaches to the operation it started before; ``None`` for a new operation.

        Raises:
            GpusnapError: the agent refused it; AgentUnreachableError if it could not be asked.
        """
        request = pb.VerifyRequest(
            request_id=request_id or new_request_id(),
            snapshot=snapshot,
            full=full,
            bytes_per_second=bytes_per_second,
            storage=convert.storage_message(storage),
        )
        return await self._start(lambda: _events(self._stub.Verify(request)))

    async def prune(
        self,
        rules: KeepRules = KEEP_ALL,
        *,
        hosts: Sequence[str] = (),
        workspaces: Sequence[str] = (),
        dry_run: bool = False,
        storage: model.Storage | None = None,
        request_id: str | None = None,
    ) -> OperationHandle:
        """Starts deleting what the repository does not need any more; without rules no snapshot.

        The result's ``prune`` says what stays and why, what was freed, and what a later prune will free.

        Args:
            rules: which snapshots stay.
            hosts: the hosts that the rules are for; empty for all.
            workspaces: the workspaces that the rules are for; empty for all.
            dry_run: only say what would be done.
            storage: the repository; ``None`` for the agent's configured one.
            request_id: an id that attaches to the operation it started before; ``None`` for a new operation.

        Raises:
            GpusnapError: the agent refused it; AgentUnreachableError if it could not be asked.
        """
        request = pb.PruneRequest(
            request_id=request_id or new_request_id(),
            keep_last=rules.last,
            keep_hourly=rules.hourly,
            keep_daily=rules.daily,
            keep_weekly=rules.weekly,
            keep_monthly=rules.monthly,
            keep_within_seconds=rules.within_seconds,
            hosts=hosts,
            workspaces=workspaces,
            dry_run=dry_run,
            storage=convert.storage_message(storage),
        )
        return await self._start(lambda: _events(self._stub.Prune(request)))

    def watch(self, name: str, after_sequence: int = 0) -> OperationHandle:
        """Attaches to an operation, running or ended; only events after ``after_sequence`` come.

        An unknown name shows when the first event is awaited.
        """
        return OperationHandle(name, self.address, self._open_watch, self._policy, after_sequence=after_sequence)

    async def get_operation(self, name: str) -> model.Operation:
        """Returns the present state of one operation.

        Raises:
            OperationNotFoundError: the agent does not know it.
        """
        answer = await self._call(self._stub.GetOperation(pb.GetOperationRequest(name=name), timeout=CALL_SECONDS))
        return convert.operation(answer.operation)

    async def list_operations(self) -> AsyncIterator[model.Operation]:
        """Yields every operation that the agent remembers, the newest first."""
        request = pb.ListOperationsRequest()
        while True:
            page = await self._call(self._stub.ListOperations(request, timeout=CALL_SECONDS))
            for message in page.operations:
                yield convert.operation(message)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def cancel(self, name: str) -> model.Operation:
        """Asks an operation to stop and returns its state; one that has ended stays as it is.

        Raises:
            OperationNotFoundError: the agent does not know it.
        """
        request = pb.CancelOperationRequest(name=name)
        answer = await self._call(self._stub.CancelOperation(request, timeout=CALL_SECONDS))
        return convert.operation(answer.operation)

    async def list_snapshots(self, *, storage: model.Storage | None = None) -> AsyncIterator[model.Snapshot]:
        """Yields the committed snapshots, the newest first, without their warnings."""
        request = pb.ListSnapshotsRequest(storage=convert.storage_message(storage))
        while True:
            page = await self._call(self._stub.ListSnapshots(request, timeout=STORE_SECONDS))
            for message in page.snapshots:
                yield convert.snapshot(message)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def get_snapshot(self, snapshot: str, *, storage: model.Storage | None = None) -> model.Snapshot:
        """Returns one snapshot, named by its id, a unique prefix of it, or "latest".

        Raises:
            SnapshotNotFoundError, SnapshotAmbiguousError: the name fits none, or more than one.
        """
        request = pb.GetSnapshotRequest(snapshot=snapshot, storage=convert.storage_message(storage))
        answer = await self._call(self._stub.GetSnapshot(request, timeout=STORE_SECONDS))
        return convert.snapshot(answer.snapshot)

    async def list_files(
        self, snapshot: str, path: bytes = b"", *, storage: model.Storage | None = None
    ) -> AsyncIterator[model.Entry]:
        """Yields the entries of a snapshot in archive order; only ``path`` and what is below it if one is given.

        The name is resolved with the first page: all pages come from the same snapshot.

        Raises:
            SnapshotNotFoundError, SnapshotAmbiguousError: the name fits none, or more than one.
        """
        request = pb.ListFilesRequest(
            snapshot=snapshot, path=path, page_size=FILES_PAGE, storage=convert.storage_message(storage)
        )
        while True:
            page = await self._call(self._stub.ListFiles(request, timeout=STORE_SECONDS))
            for message in page.entries:
                yield convert.entry(message)
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def delete_snapshot(self, snapshot: str, *, storage: model.Storage | None = None) -> str:
        """Deletes a snapshot, named by its id or a unique prefix of it, and returns its id; `prune` frees its chunks.

        Raises:
            SnapshotNotFoundError, SnapshotAmbiguousError: the name fits none, or more than one.
        """
        request = pb.DeleteSnapshotRequest(snapshot=snapshot, storage=convert.storage_message(storage))
        answer = await self._call(self._stub.DeleteSnapshot(request, timeout=STORE_SECONDS))
        return answer.snapshot_id

    async def info(self) -> model.AgentInfo:
        """Returns what the agent is and how it is configured."""
        answer = await self._call(self._stub.GetAgentInfo(pb.GetAgentInfoRequest(), timeout=CALL_SECONDS))
        return convert.agent_info(answer)

    async def check_storage(self, *, storage: model.Storage | None = None) -> model.StorageCheck:
        """Lets the agent try its store step by step: bucket, write, read, list, delete."""
        request = pb.CheckStorageRequest(storage=convert.storage_message(storage))
        return convert.storage_check(await self._call(self._stub.CheckStorage(request, timeout=STORE_SECONDS)))

    async def health(self) -> model.HealthStatus:
        """Returns what the agent's health service answers."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        call: Awaitable[health_pb2.HealthCheckResponse] = stub.Check(
            health_pb2.HealthCheckRequest(service=SERVICE), timeout=CALL_SECONDS
        )
        answer = await self._call(call)
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return model.HealthStatus.__members__.get(name, model.HealthStatus.UNKNOWN)

    async def _call(self, call: Awaitable[_Answer]) -> _Answer:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.address) from error

    def _open_watch(self, name: str, after_sequence: int) -> EventStream:
        return _events(self._stub.WatchOperation(pb.WatchOperationRequest(name=name, after_sequence=after_sequence)))

    async def _start(self, open_start: Callable[[], EventStream]) -> OperationHandle:
        """Sends a start until its first event is here; the request id makes sending it again harmless."""
        connected = await self._connect()
        outage = Outage(self._policy)
        while True:
            stream = open_start()
            try:
                first = await stream.__anext__()
            except StopAsyncIteration:
                lost = AgentUnreachableError(f"agent {self.address}: it closed the stream before any event")
            except grpc.aio.AioRpcError as error:
                failed = from_rpc_error(error, self.address)
                if not connected or not isinstance(failed, AgentUnreachableError):
                    raise failed from error
                lost = failed
            else:
                return OperationHandle(
                    first.operation, self.address, self._open_watch, self._policy, stream=stream, first=first
                )
            await outage.wait(lost)

    async def _connect(self) -> bool:
        """Returns whether the agent can be reached at all, so that an absent one is reported at once."""
        state = self._channel.get_state(try_to_connect=True)
        while state in (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING):
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY


def new_request_id() -> str:
    """Returns a request id that no other request has."""
    return str(uuid.uuid4())


async def _events(call: grpc.aio.UnaryStreamCall[_Request, _Response]) -> EventStream:
    try:
        async for message in call:
            yield convert.event(message.event)
    finally:
        call.cancel()
