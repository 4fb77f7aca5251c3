"""From the agent's own values to the messages of the service. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent import events
from agent.config.model import Provider, StorageConfig
from agent.errors import DamagedChunk, ErrorInfo
from agent.operations.record import LoggedEvent, OperationRecord
from agent.repository.model import Entry, EntryType, ManifestWarning, SnapshotSummary, UnreadableSnapshot
from agent.rpc.convert_engines import benchmark_report, measurement
from agent.rpc.convert_reports import prune_report, verify_report
from agent.rpc.errors import code_number
from agent.rpc.text import shown, text_path

PROVIDERS: Mapping[Provider, pb.Provider.ValueType] = {
    Provider.S3: pb.PROVIDER_S3,
    Provider.R2: pb.PROVIDER_R2,
    Provider.B2: pb.PROVIDER_B2,
    Provider.WASABI: pb.PROVIDER_WASABI,
    Provider.LOCAL: pb.PROVIDER_LOCAL,
    Provider.CUSTOM: pb.PROVIDER_CUSTOM,
}
KINDS: Mapping[events.OperationKind, pb.OperationKind.ValueType] = {
    events.OperationKind.SNAPSHOT: pb.OPERATION_KIND_SNAPSHOT,
    events.OperationKind.RESTORE: pb.OPERATION_KIND_RESTORE,
    events.OperationKind.VERIFY: pb.OPERATION_KIND_VERIFY,
    events.OperationKind.PRUNE: pb.OPERATION_KIND_PRUNE,
    events.OperationKind.BENCHMARK: pb.OPERATION_KIND_BENCHMARK,
}
STATES: Mapping[events.OperationState, pb.OperationState.ValueType] = {
    events.OperationState.PENDING: pb.OPERATION_STATE_PENDING,
    events.OperationState.RUNNING: pb.OPERATION_STATE_RUNNING,
    events.OperationState.CANCELLING: pb.OPERATION_STATE_CANCELLING,
    events.OperationState.SUCCEEDED: pb.OPERATION_STATE_SUCCEEDED,
    events.OperationState.FAILED: pb.OPERATION_STATE_FAILED,
    events.OperationState.CANCELLED: pb.OPERATION_STATE_CANCELLED,
}
STAGES: Mapping[events.Stage, pb.Stage.ValueType] = {
    events.Stage.SCAN: pb.STAGE_SCAN,
    events.Stage.PACK: pb.STAGE_PACK,
    events.Stage.COMPRESS: pb.STAGE_COMPRESS,
    events.Stage.UPLOAD: pb.STAGE_UPLOAD,
    events.Stage.COMMIT: pb.STAGE_COMMIT,
    events.Stage.DOWNLOAD: pb.STAGE_DOWNLOAD,
    events.Stage.DECOMPRESS: pb.STAGE_DECOMPRESS,
    events.Stage.WRITE: pb.STAGE_WRITE,
    events.Stage.FINISH: pb.STAGE_FINISH,
    events.Stage.INDEX: pb.STAGE_INDEX,
    events.Stage.VERIFY: pb.STAGE_VERIFY,
    events.Stage.DELETE: pb.STAGE_DELETE,
}
CAUSES: Mapping[events.Cause, pb.Cause.ValueType] = {
    events.Cause.PROCESSOR: pb.CAUSE_PROCESSOR,
    events.Cause.STORE: pb.CAUSE_STORE,
    events.Cause.DISK: pb.CAUSE_DISK,
    events.Cause.SCAN: pb.CAUSE_SCAN,
}
CHUNK_KINDS: Mapping[events.ChunkKind, pb.ChunkKind.ValueType] = {
    events.ChunkKind.PACK: pb.CHUNK_KIND_PACK,
    events.ChunkKind.HEADER: pb.CHUNK_KIND_HEADER,
    events.ChunkKind.SEGMENT: pb.CHUNK_KIND_SEGMENT,
    events.ChunkKind.END: pb.CHUNK_KIND_END,
}
ENTRY_TYPES: Mapping[EntryType, pb.EntryType.ValueType] = {
    EntryType.FILE: pb.ENTRY_TYPE_FILE,
    EntryType.DIRECTORY: pb.ENTRY_TYPE_DIRECTORY,
    EntryType.SYMLINK: pb.ENTRY_TYPE_SYMLINK,
    EntryType.HARD_LINK: pb.ENTRY_TYPE_HARD_LINK,
    EntryType.FIFO: pb.ENTRY_TYPE_FIFO,
    EntryType.CHARACTER_DEVICE: pb.ENTRY_TYPE_CHARACTER_DEVICE,
    EntryType.BLOCK_DEVICE: pb.ENTRY_TYPE_BLOCK_DEVICE,
}

_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
"""What a Timestamp may hold (google/protobuf/timestamp.proto); file systems hold more."""


def timestamp(time_ns: int) -> Timestamp:
    """Returns nanoseconds since 1970-01-01 UTC as a Timestamp; years outside of 1 to 9999 become the nearest inside."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return Timestamp(seconds=min(max(seconds, _FIRST_SECOND), _LAST_SECOND), nanos=nanos)


def event(operation: str, logged: LoggedEvent) -> pb.Event:
    """Returns one event of an operation."""
    message = pb.Event(operation=operation, sequence=logged.sequence, time=timestamp(logged.time_ns))
    happened = logged.event
    if isinstance(happened, events.StateChanged):
        message.state_changed.state = STATES[happened.state]
    elif isinstance(happened, events.ScanTotals):
        message.scan_totals.CopyFrom(scan_totals(happened))
    elif isinstance(happened, events.ChunkFinished):
        message.chunk_finished.CopyFrom(chunk_finished(happened))
    elif isinstance(happened, events.Progress):
        message.progress.CopyFrom(progress(happened))
    elif isinstance(happened, events.FileReady):
        message.file_ready.CopyFrom(pb.FileReady(path=happened.path, size=happened.size))
    elif isinstance(happened, events.WarningRaised):
        message.warning.CopyFrom(warning(happened))
    else:
        message.completed.CopyFrom(completed(happened))
    return message


def operation(record: OperationRecord) -> pb.Operation:
    """Returns an operation."""
    return pb.Operation(
        name=record.name,
        kind=KINDS[record.kind],
        state=STATES[record.state],
        request_id=record.request_id,
        path=text_path(record.path),
        snapshot=record.snapshot,
        create_time=timestamp(record.create_time_ns),
        end_time=timestamp(record.end_time_ns) if record.end_time_ns else None,
        last_sequence=record.last_sequence,
        progress=progress(record.progress) if record.progress is not None else None,
        completed=completed(record.completed) if record.completed is not None else None,
    )


def scan_totals(totals: events.ScanTotals) -> pb.ScanTotals:
    """Returns what a scan counted."""
    return pb.ScanTotals(
        entries=totals.entries,
        directories=totals.directories,
        links=totals.links,
        models=pb.ClassTotals(files=totals.models.files, bytes=totals.models.bytes),
        other=pb.ClassTotals(files=totals.other.files, bytes=totals.other.bytes),
        complete=totals.complete,
    )


def chunk_finished(chunk: events.ChunkFinished) -> pb.ChunkFinished:
    """Returns one finished chunk."""
    return pb.ChunkFinished(
        chunk_id=chunk.chunk_id,
        kind=CHUNK_KINDS[chunk.kind],
        raw_bytes=chunk.raw_bytes,
        stored_bytes=chunk.stored_bytes,
        seconds=chunk.seconds,
        attempts=chunk.attempts,
        engine=chunk.engine,
        reused=chunk.reused,
    )


def progress(value: events.Progress) -> pb.Progress:
    """Returns how far every stage is."""
    return pb.Progress(stages=[stage_progress(stage) for stage in value.stages], eta_seconds=value.eta_seconds)


def stage_progress(stage: events.StageProgress) -> pb.StageProgress:
    """Returns how far one stage is."""
    return pb.StageProgress(
        stage=STAGES[stage.stage],
        bytes_done=stage.bytes_done,
        bytes_total=stage.bytes_total,
        entries_done=stage.entries_done,
        entries_total=stage.entries_total,
        bytes_per_second=stage.bytes_per_second,
        busy_seconds=stage.busy_seconds,
    )


def warning(value: events.WarningRaised) -> pb.Warning:
    """Returns one warning."""
    return pb.Warning(
        reason=value.reason, message=shown(value.message), paths=value.paths, count=value.count or len(value.paths)
    )


def completed(value: events.Completed) -> pb.Completed:
    """Returns the end of an operation."""
    return pb.Completed(
        state=STATES[value.state],
        error=error(value.error) if value.error is not None else None,
        result=result(value.result) if value.result is not None else None,
    )


def error(info: ErrorInfo) -> pb.Error:
    """Returns why an operation, or a step of a check, failed."""
    return pb.Error(
        code=code_number(info.reason),
        reason=info.reason,
        message=shown(info.message),
        hint=shown(info.hint),
        retryable=info.retryable,
        damaged=[damaged_chunk(chunk) for chunk in info.damaged],
    )


def damaged_chunk(chunk: DamagedChunk) -> pb.DamagedChunk:
    """Returns one damaged chunk."""
    return pb.DamagedChunk(
        chunk_id=chunk.chunk_id,
        problem=shown(chunk.problem),
        paths=chunk.paths,
        snapshots=[pb.DamagedSnapshot(snapshot_id=item.snapshot_id, paths=item.paths) for item in chunk.snapshots],
    )


def result(value: events.OperationResult) -> pb.Result:
    """Returns what an operation did."""
    return pb.Result(
        snapshot_id=value.snapshot_id,
        totals=scan_totals(value.totals),
        chunks=value.chunks,
        chunks_transferred=value.chunks_transferred,
        raw_bytes=value.raw_bytes,
        transferred_bytes=value.transferred_bytes,
        seconds=value.seconds,
        warnings=value.warnings,
        engine=value.engine,
        engine_reason=value.engine_reason,
        stages=[stage_progress(stage) for stage in value.stages],
        occupation=[pb.Occupation(cause=CAUSES[item.cause], seconds=item.seconds) for item in value.occupation],
        measurements=[measurement(item) for item in value.measurements],
        verify=verify_report(value.verify) if value.verify is not None else None,
        present=present_report(value.present) if value.present is not None else None,
        prune=prune_report(value.prune) if value.prune is not None else None,
        benchmark=benchmark_report(value.benchmark) if value.benchmark is not None else None,
        unchanged_files=value.unchanged_files,
        unchanged_bytes=value.unchanged_bytes,
    )


def present_report(value: events.PresentReport) -> pb.PresentReport:
    """Returns what the target of a restore held already."""
    return pb.PresentReport(kept_files=value.kept_files, kept_bytes=value.kept_bytes, copied_bytes=value.copied_bytes)


def snapshot(summary: SnapshotSummary | UnreadableSnapshot) -> pb.Snapshot:
    """Returns one snapshot, without its warnings."""
    if isinstance(summary, UnreadableSnapshot):
        return pb.Snapshot(id=summary.id, problem=shown(summary.problem))
    return pb.Snapshot(
        id=summary.id,
        parent=summary.parent,
        host=shown(summary.host),
        workspace=text_path(summary.workspace),
        start_time=timestamp(summary.start_time_ns),
        commit_time=timestamp(summary.commit_time_ns),
        agent_version=summary.agent_version,
        totals=scan_totals(summary.totals),
        chunks=summary.chunks,
        raw_bytes=summary.raw_bytes,
        stored_bytes=summary.stored_bytes,
        warning_count=summary.warnings,
    )


def manifest_warning(value: ManifestWarning) -> pb.Warning:
    """Returns a warning that stands in a manifest."""
    paths = [value.path] if value.path else []
    return pb.Warning(reason=value.reason, message=shown(value.message), paths=paths, count=1)


def entry(value: Entry) -> pb.Entry:
    """Returns one entry of a snapshot."""
    return pb.Entry(
        path=value.path,
        type=ENTRY_TYPES[value.type],
        mode=value.mode,
        uid=value.uid,
        gid=value.gid,
        size=value.size,
        modify_time=timestamp(value.mtime_ns),
        link_target=value.link_target,
    )


def storage_message(config: StorageConfig) -> pb.Storage:
    """Returns a store as a message, without credentials."""
    return pb.Storage(
        provider=PROVIDERS[config.provider],
        bucket=config.bucket,
        prefix=config.prefix,
        endpoint=config.endpoint,
        region=config.region,
    )
