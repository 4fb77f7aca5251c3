"""What starts operations of an agent: a part of ``AgentClient``."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc
import grpc.aio
from gpusnap.v1 import snapshot_agent_pb2 as pb

from controller_client import convert, model
from controller_client.errors import AgentUnreachableError
from controller_client.operation import EventStream, OperationHandle
from controller_client.reattach import Outage, ReattachPolicy
from controller_client.reports import KEEP_ALL, KeepRules
from controller_client.status import from_rpc_error

if TYPE_CHECKING:
    from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentAsyncStub

_Request = TypeVar("_Request")


class _EventMessage(Protocol):
    """A response that carries one event."""

    @property
    def event(self) -> pb.Event: ...


_Response = TypeVar("_Response", bound=_EventMessage)


class OperationStarts:
    """Starts operations; each start is sent until the agent has taken it."""

    address: str
    _policy: ReattachPolicy
    _channel: grpc.aio.Channel
    _stub: SnapshotAgentAsyncStub

    def _open_watch(self, name: str, after_sequence: int) -> EventStream:
        return events_of(self._stub.WatchOperation(pb.WatchOperationRequest(name=name, after_sequence=after_sequence)))

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
        return await self._start(lambda: events_of(self._stub.Snapshot(request)))

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
        return await self._start(lambda: events_of(self._stub.Restore(request)))

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
        return await self._start(lambda: events_of(self._stub.Verify(request)))

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
        return await self._start(lambda: events_of(self._stub.Prune(request)))

    async def benchmark(
        self,
        provider: str = "",
        *,
        bytes_: int = 0,
        object_bytes: int = 0,
        rounds: int = 0,
        storage: model.Storage | None = None,
        request_id: str | None = None,
    ) -> OperationHandle:
        """Starts measuring the transfer engines with a store; its result has ``measurements`` and a ``benchmark``.

        Args:
            provider: the name of a table [providers.NAME] of the agent's configuration; empty for ``storage``.
            bytes_: what each engine moves in each direction and round; 0 for 512 MiB.
            object_bytes: the size of each object; 0 for 64 MiB.
            rounds: how often all of it is done; 0 for 3.
            storage: the store; ``None`` for ``provider``, or the agent's configured one.
            request_id: an id that attaches to the operation it started before; ``None`` for a new operation.

        Raises:
            GpusnapError: the agent refused it; AgentUnreachableError if it could not be asked.
        """
        request = pb.BenchmarkRequest(
            request_id=request_id or new_request_id(),
            provider=provider,
            bytes=bytes_,
            object_bytes=object_bytes,
            rounds=rounds,
            storage=convert.storage_message(storage),
        )
        return await self._start(lambda: events_of(self._stub.Benchmark(request)))

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


async def events_of(call: grpc.aio.UnaryStreamCall[_Request, _Response]) -> EventStream:
    """Yields the events of a call, and ends the call when nobody wants any more."""
    try:
        async for message in call:
            yield convert.event(message.event)
    finally:
        call.cancel()
