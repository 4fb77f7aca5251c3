"""Between the messages of the contract and ``controller_client.model``. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Protocol, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from gpusnap.v1 import snapshot_agent_pb2 as pb

from controller_client import engines, model, reports
from controller_client.storage import NamedStorage

_E = TypeVar("_E", bound=enum.Enum)


class _EnumWrapper(Protocol):
    """What a generated enum offers."""

    def items(self) -> Iterable[tuple[str, int]]: ...


def enum_table(wrapper: _EnumWrapper, prefix: str, cls: type[_E]) -> dict[int, _E]:
    """Returns the member of ``cls`` for every number of a generated enum but its zero.

    Raises:
        KeyError: the contract has a value that ``cls`` lacks.
    """
    return {int(number): cls[name.removeprefix(prefix)] for name, number in wrapper.items() if number}


KINDS = enum_table(pb.OperationKind, "OPERATION_KIND_", model.OperationKind)
STATES = enum_table(pb.OperationState, "OPERATION_STATE_", model.OperationState)
STAGES = enum_table(pb.Stage, "STAGE_", model.Stage)
CAUSES = enum_table(pb.Cause, "CAUSE_", model.Cause)
CHUNK_KINDS = enum_table(pb.ChunkKind, "CHUNK_KIND_", model.ChunkKind)
ENTRY_TYPES = enum_table(pb.EntryType, "ENTRY_TYPE_", model.EntryType)
DIRECTIONS = enum_table(pb.Direction, "DIRECTION_", engines.Direction)
PROVIDERS = enum_table(pb.Provider, "PROVIDER_", model.Provider)


def time_ns(timestamp: Timestamp) -> int:
    """Returns nanoseconds since 1970-01-01 UTC."""
    return timestamp.seconds * 1_000_000_000 + timestamp.nanos


def event(message: pb.Event) -> model.Event:
    """Converts one event of an operation."""
    return model.Event(message.operation, message.sequence, time_ns(message.time), _detail(message))


def _detail(message: pb.Event) -> model.EventDetail:
    kind = message.WhichOneof("kind")
    if kind == "state_changed":
        return model.StateChanged(_state(message.state_changed.state))
    if kind == "scan_totals":
        return scan_totals(message.scan_totals)
    if kind == "chunk_finished":
        return _chunk_finished(message.chunk_finished)
    if kind == "progress":
        return progress(message.progress)
    if kind == "file_ready":
        return model.FileReady(message.file_ready.path, message.file_ready.size)
    if kind == "warning":
        return warning(message.warning)
    if kind == "completed":
        return completed(message.completed)
    return model.UnknownDetail()


def _state(number: int) -> model.OperationState:
    return STATES.get(number, model.OperationState.UNKNOWN)


def scan_totals(message: pb.ScanTotals) -> model.ScanTotals:
    """Converts the totals of a scan."""
    return model.ScanTotals(
        entries=message.entries,
        directories=message.directories,
        links=message.links,
        models=model.ClassTotals(message.models.files, message.models.bytes),
        other=model.ClassTotals(message.other.files, message.other.bytes),
        complete=message.complete,
    )


def _chunk_finished(message: pb.ChunkFinished) -> model.ChunkFinished:
    return model.ChunkFinished(
        chunk_id=message.chunk_id,
        kind=CHUNK_KINDS.get(message.kind, model.ChunkKind.UNKNOWN),
        raw_bytes=message.raw_bytes,
        stored_bytes=message.stored_bytes,
        seconds=message.seconds,
        attempts=message.attempts,
        engine=message.engine,
        reused=message.reused,
    )


def _stage_progress(message: pb.StageProgress) -> model.StageProgress:
    return model.StageProgress(
        stage=STAGES.get(message.stage, model.Stage.UNKNOWN),
        bytes_done=message.bytes_done,
        bytes_total=message.bytes_total,
        entries_done=message.entries_done,
        entries_total=message.entries_total,
        bytes_per_second=message.bytes_per_second,
        busy_seconds=message.busy_seconds,
    )


def progress(message: pb.Progress) -> model.Progress:
    """Converts a progress."""
    eta = message.eta_seconds if message.HasField("eta_seconds") else None
    return model.Progress(tuple(_stage_progress(stage) for stage in message.stages), eta)


def warning(message: pb.Warning) -> model.WarningRaised:
    """Converts a warning."""
    return model.WarningRaised(message.reason, message.message, tuple(message.paths), message.count)


def failure(message: pb.Error) -> model.Failure:
    """Converts the error of an ended operation or of a step of a check."""
    damaged = tuple(_damaged_chunk(chunk) for chunk in message.damaged)
    return model.Failure(message.reason, message.message, message.hint, message.retryable, damaged)


def _damaged_chunk(message: pb.DamagedChunk) -> model.DamagedChunk:
    return model.DamagedChunk(
        chunk_id=message.chunk_id,
        problem=message.problem,
        paths=tuple(message.paths),
        snapshots=tuple(model.DamagedSnapshot(item.snapshot_id, tuple(item.paths)) for item in message.snapshots),
    )


def result(message: pb.Result) -> model.OperationResult:
    """Converts what an operation did."""
    return model.OperationResult(
        snapshot_id=message.snapshot_id,
        totals=scan_totals(message.totals),
        chunks=message.chunks,
        chunks_transferred=message.chunks_transferred,
        raw_bytes=message.raw_bytes,
        transferred_bytes=message.transferred_bytes,
        seconds=message.seconds,
        warnings=message.warnings,
        engine=message.engine,
        engine_reason=message.engine_reason,
        stages=tuple(_stage_progress(stage) for stage in message.stages),
        occupation=tuple(
            model.Occupation(CAUSES.get(item.cause, model.Cause.UNKNOWN), item.seconds) for item in message.occupation
        ),
        unchanged_files=message.unchanged_files,
        unchanged_bytes=message.unchanged_bytes,
        verify=_verify_report(message.verify) if message.HasField("verify") else None,
        present=_present_report(message.present) if message.HasField("present") else None,
        measurements=tuple(_measurement(item) for item in message.measurements),
        prune=_prune_report(message.prune) if message.HasField("prune") else None,
        benchmark=_benchmark_report(message.benchmark) if message.HasField("benchmark") else None,
    )


def _benchmark_report(message: pb.BenchmarkReport) -> engines.BenchmarkReport:
    runs = (
        engines.BenchmarkRun(
            engine=run.engine,
            direction=_direction(run.direction),
            round=run.round,
            bytes=run.bytes,
            seconds=run.seconds,
            cpu_seconds=run.cpu_seconds,
        )
        for run in message.runs
    )
    provider = PROVIDERS.get(message.provider, model.Provider.UNKNOWN)
    return engines.BenchmarkReport(provider, message.bucket, message.endpoint, tuple(runs))


def _measurement(message: pb.Measurement) -> engines.Measurement:
    return engines.Measurement(
        engine=message.engine,
        direction=_direction(message.direction),
        bytes_per_second=message.bytes_per_second,
        time_ns=time_ns(message.time),
        cpu_seconds_per_gb=message.cpu_seconds_per_gb,
        operation=message.operation,
    )


def _direction(number: int) -> engines.Direction:
    return DIRECTIONS.get(number, engines.Direction.UNKNOWN)


def _present_report(message: pb.PresentReport) -> reports.PresentReport:
    return reports.PresentReport(message.kept_files, message.kept_bytes, message.copied_bytes)


def _prune_report(message: pb.PruneReport) -> reports.PruneReport:
    return reports.PruneReport(
        dry_run=message.dry_run,
        grace_seconds=message.grace_seconds,
        kept=message.kept,
        removed=message.removed,
        verdicts=tuple(
            reports.SnapshotVerdict(item.snapshot_id, item.host, item.workspace, tuple(item.reasons))
            for item in message.verdicts
        ),
        freed=_garbage(message.freed),
        condemned=_garbage(message.condemned),
        held=_garbage(message.held),
        litter=message.litter,
        minimum_storage_days=message.minimum_storage_days,
        early=_garbage(message.early),
    )


def _garbage(message: pb.Garbage) -> reports.Garbage:
    return reports.Garbage(message.chunks, message.bytes)


def _verify_report(message: pb.VerifyReport) -> reports.VerifyReport:
    return reports.VerifyReport(message.full, message.snapshots, message.chunks, message.stored_bytes)


def completed(message: pb.Completed) -> model.Completed:
    """Converts the end of an operation."""
    return model.Completed(
        state=_state(message.state),
        error=failure(message.error) if message.HasField("error") else None,
        result=result(message.result) if message.HasField("result") else None,
    )


def operation(message: pb.Operation) -> model.Operation:
    """Converts one operation."""
    return model.Operation(
        name=message.name,
        kind=KINDS.get(message.kind, model.OperationKind.UNKNOWN),
        state=_state(message.state),
        request_id=message.request_id,
        path=message.path,
        snapshot=message.snapshot,
        create_time_ns=time_ns(message.create_time),
        end_time_ns=time_ns(message.end_time) if message.HasField("end_time") else None,
        last_sequence=message.last_sequence,
        progress=progress(message.progress) if message.HasField("progress") else None,
        completed=completed(message.completed) if message.HasField("completed") else None,
    )


def snapshot(message: pb.Snapshot) -> model.Snapshot:
    """Converts one snapshot."""
    return model.Snapshot(
        id=message.id,
        parent=message.parent,
        host=message.host,
        workspace=message.workspace,
        start_time_ns=time_ns(message.start_time),
        commit_time_ns=time_ns(message.commit_time),
        agent_version=message.agent_version,
        totals=scan_totals(message.totals),
        chunks=message.chunks,
        raw_bytes=message.raw_bytes,
        stored_bytes=message.stored_bytes,
        warning_count=message.warning_count,
        warnings=tuple(warning(item) for item in message.warnings),
        problem=message.problem,
    )


def entry(message: pb.Entry) -> model.Entry:
    """Converts one entry of a snapshot."""
    return model.Entry(
        path=message.path,
        type=ENTRY_TYPES.get(message.type, model.EntryType.UNKNOWN),
        mode=message.mode,
        uid=message.uid,
        gid=message.gid,
        size=message.size,
        modify_time_ns=time_ns(message.modify_time),
        link_target=message.link_target,
    )


def storage(message: pb.Storage) -> model.Storage:
    """Converts a configured storage; an agent never sends credentials."""
    return model.Storage(
        provider=PROVIDERS.get(message.provider, model.Provider.UNKNOWN),
        bucket=message.bucket,
        prefix=message.prefix,
        endpoint=message.endpoint,
        region=message.region,
    )


def agent_info(message: pb.GetAgentInfoResponse) -> model.AgentInfo:
    """Converts the description of an agent."""
    return model.AgentInfo(
        version=message.version,
        host=message.host,
        start_time_ns=time_ns(message.start_time),
        workspace_roots=tuple(message.workspace_roots),
        storage=storage(message.storage) if message.HasField("storage") else None,
        engine=message.engine,
        engine_reason=message.engine_reason,
        s5cmd_version=message.s5cmd_version,
        format_version=message.format_version,
        metrics_address=message.metrics_address,
        connections=message.connections,
        running_operations=tuple(message.running_operations),
        engines=tuple(_engine_use(item) for item in message.engines),
        workers=message.workers,
        workers_reason=message.workers_reason,
        providers=tuple(NamedStorage(item.name, storage(item.storage)) for item in message.providers),
        connections_reason=message.connections_reason,
        staging=_staging(message.staging) if message.HasField("staging") else None,
    )


def _staging(message: pb.StagingFolder) -> model.StagingFolder:
    return model.StagingFolder(message.path, message.file_system, message.huge_pages, message.description)


def _engine_use(message: pb.EngineUse) -> engines.EngineUse:
    measurements = tuple(_measurement(item) for item in message.measurements)
    return engines.EngineUse(_direction(message.direction), message.engine, message.reason, measurements)


def storage_check(message: pb.CheckStorageResponse) -> model.StorageCheck:
    """Converts the answer of a check of a store."""
    steps = tuple(
        model.CheckStep(step.name, step.seconds, failure(step.error) if step.HasField("error") else None)
        for step in message.steps
    )
    return model.StorageCheck(steps, message.ok)


def storage_message(value: model.Storage | None) -> pb.Storage | None:
    """Returns the message of a request's storage; ``None`` stays ``None``: the agent's configured one."""
    if value is None:
        return None
    message = pb.Storage(
        provider=provider_number(value.provider),
        bucket=value.bucket,
        prefix=value.prefix,
        endpoint=value.endpoint,
        region=value.region,
    )
    if value.credentials is not None:
        message.credentials.access_key_id = value.credentials.access_key_id
        message.credentials.secret_access_key = value.credentials.secret_access_key
        message.credentials.session_token = value.credentials.session_token
    return message


def provider_number(provider: model.Provider) -> pb.Provider.ValueType:
    """Returns the contract's number of a provider."""
    name = "UNSPECIFIED" if provider is model.Provider.UNKNOWN else provider.name
    return pb.Provider.Value(f"PROVIDER_{name}")


def if_not_empty_number(choice: model.IfNotEmpty) -> pb.IfNotEmpty.ValueType:
    """Returns the contract's number of a choice."""
    return pb.IfNotEmpty.Value(f"IF_NOT_EMPTY_{choice.name}")
