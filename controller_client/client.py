"""The asynchronous client of one agent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc.aio
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller_client import convert, model
from controller_client.address import find_address, parse_address
from controller_client.channel import open_channel
from controller_client.operation import OperationHandle
from controller_client.reattach import ReattachPolicy
from controller_client.starts import OperationStarts
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


class AgentClient(OperationStarts):
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
