"""The service gpusnap.v1.SnapshotAgent: each handler converts, asks, and converts back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentServicer

from agent.config.model import Config, StorageConfig
from agent.events import Direction
from agent.operations.checks import check_entry_path
from agent.operations.manager import OperationManager
from agent.operations.measured import MeasuredStores
from agent.pipeline.workers import Workers, choose_workers, free_memory, usable_cores
from agent.repository.model import FORMAT_VERSION
from agent.rpc import convert, orders
from agent.rpc.convert_engines import engine_use
from agent.rpc.paging import fitting, make_token, page_size, read_number, read_text, read_token
from agent.rpc.queries import Queries
from agent.storage.open import explain_connections, foresee
from agent.storage.staging_place import staging_place

if TYPE_CHECKING:
    from gpusnap.v1.snapshot_agent_pb2_grpc import _ServicerContext


class AgentFacts(msgspec.Struct, frozen=True):
    """What does not change while the agent runs.

    Attributes:
        version: of the agent.
        host: the host's name.
        start_time_ns: when the agent started, since 1970-01-01 UTC.
        s5cmd_version: of the s5cmd that was found; empty if none.
        metrics_address: where the metrics are; empty if nowhere.
    """

    version: str
    host: str
    start_time_ns: int
    s5cmd_version: str
    metrics_address: str


class SnapshotAgentService(SnapshotAgentServicer):
    """The handlers, each documented at its RPC in ``gpusnap/v1/snapshot_agent.proto``.

    Errors go up to ``agent.rpc.interceptor``.

    Args:
        config: the agent's configuration.
        facts: what GetAgentInfo says.
        manager: the operations.
        queries: the questions to repositories.
        measured: what is known of the transfer engines.
    """

    def __init__(
        self, config: Config, facts: AgentFacts, manager: OperationManager, queries: Queries, measured: MeasuredStores
    ) -> None:
        self._config = config
        self._facts = facts
        self._manager = manager
        self._queries = queries
        self._measured = measured

    async def Snapshot(  # noqa: N802
        self, request: pb.SnapshotRequest, context: _ServicerContext
    ) -> AsyncIterator[pb.SnapshotResponse]:
        record = await self._manager.start(orders.snapshot_order(request, self._config.storage))
        async for event in self._events(record.name, 0):
            yield pb.SnapshotResponse(event=event)

    async def Restore(  # noqa: N802
        self, request: pb.RestoreRequest, context: _ServicerContext
    ) -> AsyncIterator[pb.RestoreResponse]:
        record = await self._manager.start(orders.restore_order(request, self._config.storage))
        async for event in self._events(record.name, 0):
            yield pb.RestoreResponse(event=event)

    async def Verify(  # noqa: N802
        self, request: pb.VerifyRequest, context: _ServicerContext
    ) -> AsyncIterator[pb.VerifyResponse]:
        record = await self._manager.start(orders.verify_order(request, self._config.storage))
        async for event in self._events(record.name, 0):
            yield pb.VerifyResponse(event=event)

    async def Prune(  # noqa: N802
        self, request: pb.PruneRequest, context: _ServicerContext
    ) -> AsyncIterator[pb.PruneResponse]:
        record = await self._manager.start(orders.prune_order(request, self._config.storage))
        async for event in self._events(record.name, 0):
            yield pb.PruneResponse(event=event)

    async def Benchmark(  # noqa: N802
        self, request: pb.BenchmarkRequest, context: _ServicerContext
    ) -> AsyncIterator[pb.BenchmarkResponse]:
        record = await self._manager.start(orders.benchmark_order(request, self._config.storage))
        async for event in self._events(record.name, 0):
            yield pb.BenchmarkResponse(event=event)

    async def WatchOperation(  # noqa: N802
        self, request: pb.WatchOperationRequest, context: _ServicerContext
    ) -> AsyncIterator[pb.WatchOperationResponse]:
        async for event in self._events(request.name, request.after_sequence):
            yield pb.WatchOperationResponse(event=event)

    async def GetOperation(  # noqa: N802
        self, request: pb.GetOperationRequest, context: _ServicerContext
    ) -> pb.GetOperationResponse:
        record = await self._manager.get(request.name)
        return pb.GetOperationResponse(operation=convert.operation(record))

    async def ListOperations(  # noqa: N802
        self, request: pb.ListOperationsRequest, context: _ServicerContext
    ) -> pb.ListOperationsResponse:
        limit = page_size(request.page_size, 100, 1000)
        before = read_number(read_token(request.page_token, _OPERATIONS))
        records = await self._manager.page(before, limit + 1)
        messages = fitting(convert.operation(record) for record in records[:limit])
        more = len(messages) < len(records)
        token = make_token(_OPERATIONS, b"%d" % records[len(messages) - 1].number) if more else ""
        return pb.ListOperationsResponse(operations=messages, next_page_token=token)

    async def CancelOperation(  # noqa: N802
        self, request: pb.CancelOperationRequest, context: _ServicerContext
    ) -> pb.CancelOperationResponse:
        record = await self._manager.cancel(request.name)
        return pb.CancelOperationResponse(operation=convert.operation(record))

    async def ListSnapshots(  # noqa: N802
        self, request: pb.ListSnapshotsRequest, context: _ServicerContext
    ) -> pb.ListSnapshotsResponse:
        limit = page_size(request.page_size, 100, 1000)
        requested = self._storage(request)
        scope = b"snapshots\0" + _location(requested)
        before = read_text(read_token(request.page_token, scope))
        summaries = await self._queries.list_snapshots(requested, before, limit + 1)
        messages = fitting(convert.snapshot(summary) for summary in summaries[:limit])
        more = len(messages) < len(summaries)
        token = make_token(scope, messages[-1].id.encode()) if more else ""
        return pb.ListSnapshotsResponse(snapshots=messages, next_page_token=token)

    async def GetSnapshot(  # noqa: N802
        self, request: pb.GetSnapshotRequest, context: _ServicerContext
    ) -> pb.GetSnapshotResponse:
        summary, warnings = await self._queries.get_snapshot(self._storage(request), request.snapshot)
        message = convert.snapshot(summary)
        message.warnings.extend(fitting(map(convert.manifest_warning, warnings)))
        return pb.GetSnapshotResponse(snapshot=message)

    async def ListFiles(  # noqa: N802
        self, request: pb.ListFilesRequest, context: _ServicerContext
    ) -> pb.ListFilesResponse:
        limit = page_size(request.page_size, 1000, 10_000)
        path = check_entry_path(request.path, "path") if request.path else b""
        requested = self._storage(request)
        scope = b"\0".join([b"files", _location(requested), request.snapshot.encode(), path])
        # The token holds the id too: "latest" may name another snapshot by the time of the next page.
        snapshot, found, place = read_token(request.page_token, scope).partition(b"\0")
        name, after = (read_text(snapshot), place) if found else (request.snapshot, None)
        snapshot_id, entries = await self._queries.list_entries(requested, name, path, after, limit + 1)
        messages = fitting(map(convert.entry, entries[:limit]))
        more = len(messages) < len(entries)
        token = make_token(scope, snapshot_id.encode() + b"\0" + messages[-1].path) if more else ""
        return pb.ListFilesResponse(entries=messages, next_page_token=token, snapshot_id=snapshot_id)

    async def DeleteSnapshot(  # noqa: N802
        self, request: pb.DeleteSnapshotRequest, context: _ServicerContext
    ) -> pb.DeleteSnapshotResponse:
        snapshot_id = await self._queries.delete_snapshot(self._storage(request), request.snapshot)
        return pb.DeleteSnapshotResponse(snapshot_id=snapshot_id)

    async def GetAgentInfo(  # noqa: N802
        self, request: pb.GetAgentInfoRequest, context: _ServicerContext
    ) -> pb.GetAgentInfoResponse:
        config, facts = self._config, self._facts
        measured = self._measured.of(config.storage)
        choices = {each: foresee(config.storage, config.transfer, each, measured) for each in Direction}
        workers = await asyncio.to_thread(_workers, config.transfer.workers)
        place = await asyncio.to_thread(staging_place, config.agent.staging_dir)
        return pb.GetAgentInfoResponse(
            version=facts.version,
            host=facts.host,
            start_time=convert.timestamp(facts.start_time_ns),
            workspace_roots=config.agent.workspace_roots,
            storage=convert.storage_message(config.storage) if config.storage.configured else None,
            engine=choices[Direction.DOWNLOAD].engine,
            engine_reason=choices[Direction.DOWNLOAD].reason,
            s5cmd_version=facts.s5cmd_version,
            format_version=FORMAT_VERSION,
            metrics_address=facts.metrics_address,
            connections=config.transfer.connections,
            running_operations=[record.name for record in self._manager.running],
            engines=[engine_use(each, choice, measured) for each, choice in choices.items()],
            workers=workers.count,
            workers_reason=workers.reason,
            providers=[
                pb.NamedStorage(name=name, storage=convert.storage_message(storage))
                for name, storage in config.providers.items()
            ],
            connections_reason=explain_connections(config.storage, config.transfer),
            staging=pb.StagingFolder(
                path=config.agent.staging_dir,
                file_system=place.file_system,
                huge_pages=place.has_huge_pages,
                description=place.text,
            ),
        )

    async def CheckStorage(  # noqa: N802
        self, request: pb.CheckStorageRequest, context: _ServicerContext
    ) -> pb.CheckStorageResponse:
        steps = await self._queries.check_storage(self._storage(request))
        return pb.CheckStorageResponse(
            steps=[
                pb.CheckStep(
                    name=step.name, seconds=step.seconds, error=convert.error(step.error) if step.error else None
                )
                for step in steps
            ],
            ok=all(step.error is None for step in steps),
        )

    async def _events(self, name: str, after_sequence: int) -> AsyncIterator[pb.Event]:
        async for logged in self._manager.events(name, after_sequence):
            yield convert.event(name, logged)

    def _storage(self, request: _NamesStorage) -> StorageConfig | None:
        return orders.storage(request.storage, self._config.storage) if request.HasField("storage") else None


def _workers(configured: int) -> Workers:
    return choose_workers(configured, usable_cores(), free_memory())


_OPERATIONS = b"operations"


def _location(requested: StorageConfig | None) -> bytes:
    """Returns what tells one repository from another in page tokens; credentials may be renewed between pages."""
    return b"" if requested is None else msgspec.json.encode(msgspec.structs.replace(requested, credentials=None))


_NamesStorage = (
    pb.ListSnapshotsRequest
    | pb.GetSnapshotRequest
    | pb.ListFilesRequest
    | pb.DeleteSnapshotRequest
    | pb.CheckStorageRequest
)
