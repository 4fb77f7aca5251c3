"""What Prometheus sees.

``gpusnap_bytes_total{operation, stage, class}`` counts bytes by stage. Two stages know which file a byte belongs to:
``scan`` of a snapshot (from its totals) and ``write`` of a restore; they count class "models" or "other".
All other stages see chunks and count class "all". So the sum over ``class`` is right for every stage, and adding up
stages is never meaningful.

The live throughput is that of the stage that touches every content byte: ``pack`` of snapshots, ``write`` of restores,
``verify`` of verifications that read, ``download`` of benchmarks. Only what read or wrote content has a throughput.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from agent.events import (
    Completed,
    OperationKind,
    OperationState,
    Progress,
    ScanTotals,
    Stage,
    StageProgress,
    WarningRaised,
)
from agent.operations.record import LoggedEvent

_MAIN_STAGE: Mapping[OperationKind, Stage] = {
    OperationKind.SNAPSHOT: Stage.PACK,
    OperationKind.RESTORE: Stage.WRITE,
    OperationKind.VERIFY: Stage.VERIFY,
    OperationKind.PRUNE: Stage.DELETE,
    OperationKind.BENCHMARK: Stage.DOWNLOAD,
}
_SECONDS = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_BYTES_PER_SECOND = (1e6, 1e7, 2.5e7, 5e7, 1e8, 2e8, 3e8, 5e8, 7.5e8, 1e9, 1.5e9, 2e9, 3e9, 5e9)


class Metrics:
    """The agent's metrics. ``observe`` belongs to the event loop; scrapes come from other threads.

    Args:
        version: the agent's version.
        clock: seconds that only go on, whatever becomes of the time of day.
    """

    def __init__(self, version: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._bytes = Counter(
            "gpusnap_bytes", "Bytes that went through a stage", ("operation", "stage", "class"), registry=registry
        )
        self._operations = Counter(
            "gpusnap_operations", "Operations that ended", ("operation", "result"), registry=registry
        )
        self._duration = Histogram(
            "gpusnap_operation_duration_seconds",
            "Seconds from the acceptance of an operation to its end",
            ("operation", "result"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._throughput = Histogram(
            "gpusnap_operation_throughput_bytes_per_second",
            "Bytes of the archive a second that operations which succeeded have read or written",
            ("operation",),
            buckets=_BYTES_PER_SECOND,
            registry=registry,
        )
        self._live_throughput = Gauge(
            "gpusnap_throughput_bytes_per_second",
            "Content bytes a second that running operations read (snapshot, verify) or write (restore) now",
            ("operation",),
            registry=registry,
        )
        self._last_success = Gauge(
            "gpusnap_last_success_timestamp_seconds",
            "When the last operation succeeded, with warnings or without",
            ("operation",),
            registry=registry,
        )
        self._thread_seconds = Counter(
            "gpusnap_thread_seconds",
            "Seconds of working threads of operations that ended, by what they were spent on",
            ("operation", "cause"),
            registry=registry,
        )
        self._stage_seconds = Counter(
            "gpusnap_stage_busy_seconds",
            "Seconds that threads and transfers worked on a stage",
            ("operation", "stage"),
            registry=registry,
        )
        self._kept_files = Counter(
            "gpusnap_kept_files", "Files that restores found in their target as they should be", registry=registry
        )
        self._kept_bytes = Counter(
            "gpusnap_kept_bytes", "Content bytes that restores found in their target and kept", registry=registry
        )
        self._copied_bytes = Counter(
            "gpusnap_copied_bytes", "Content bytes that restores copied within their target", registry=registry
        )
        self._unchanged_files = Counter(
            "gpusnap_unchanged_files", "Files that snapshots did not read, as they had not changed", registry=registry
        )
        self._unchanged_bytes = Counter(
            "gpusnap_unchanged_bytes", "Content bytes of files that snapshots did not read", registry=registry
        )
        self._running = Gauge("gpusnap_operations_running", "Operations that have not ended", registry=registry)
        self._warnings = Counter(
            "gpusnap_warnings",
            "Paths that were not saved or restored as asked, and operations that were continued or tried again",
            ("operation", "reason"),
            registry=registry,
        )
        self._lag = Gauge(
            "gpusnap_event_loop_lag_seconds",
            "The longest delay of the agent's event loop within the last seconds",
            registry=registry,
        )
        info = Gauge("gpusnap_build_info", "Always 1; the version is the label", ("version",), registry=registry)
        info.labels(version).set(1)
        self._seen: dict[str, _Seen] = {}
        for kind in OperationKind:
            self._live_throughput.labels(kind.value).set(0)

    def observe(self, name: str, kind: OperationKind, logged: LoggedEvent) -> None:
        """Takes note of an event of an operation."""
        event = logged.event
        if isinstance(event, Completed):
            self._end(name, kind, logged.time_ns, event)
            return
        seen = self._seen.setdefault(name, _Seen(kind, self._clock()))
        self._running.set(len(self._seen))
        if isinstance(event, Progress):
            for stage in event.stages:
                self._add_stage(seen, stage)
            self._set_live_throughput(kind)
        elif isinstance(event, ScanTotals) and kind is OperationKind.SNAPSHOT:
            self._add(seen, Stage.SCAN, "models", event.models.bytes)
            self._add(seen, Stage.SCAN, "other", event.other.bytes)
        elif isinstance(event, WarningRaised):
            self._warnings.labels(kind.value, event.reason).inc(max(event.count, len(event.paths), 1))

    def set_loop_lag(self, seconds: float) -> None:
        """Takes note of the event loop's delay."""
        self._lag.set(seconds)

    def _end(self, name: str, kind: OperationKind, time_ns: int, completed: Completed) -> None:
        result = completed.result
        outcome = _outcome(completed)
        self._operations.labels(kind.value, outcome).inc()
        seen = self._seen.pop(name, None)
        if seen is not None:
            self._duration.labels(kind.value, outcome).observe(self._clock() - seen.started)
            for stage in result.stages if result is not None else ():
                self._add_stage(seen, stage)
        for occupation in result.occupation if result is not None else ():
            self._thread_seconds.labels(kind.value, occupation.cause.value).inc(occupation.seconds)
        if completed.state is OperationState.SUCCEEDED and result is not None:
            self._last_success.labels(kind.value).set(time_ns / 1e9)
            if result.present is not None:
                self._kept_files.inc(result.present.kept_files)
                self._kept_bytes.inc(result.present.kept_bytes)
                self._copied_bytes.inc(result.present.copied_bytes)
            self._unchanged_files.inc(result.unchanged_files)
            self._unchanged_bytes.inc(result.unchanged_bytes)
            if result.seconds > 0 and result.handled_bytes:
                self._throughput.labels(kind.value).observe(result.handled_bytes / result.seconds)
        self._running.set(len(self._seen))
        self._set_live_throughput(kind)

    def _add_stage(self, seen: _Seen, stage: StageProgress) -> None:
        if stage.stage is _MAIN_STAGE[seen.kind]:
            seen.rate = stage.bytes_per_second
        busy_before = seen.busy.get(stage.stage, 0.0)
        if stage.busy_seconds > busy_before:
            seen.busy[stage.stage] = stage.busy_seconds
            self._stage_seconds.labels(seen.kind.value, stage.stage.value).inc(stage.busy_seconds - busy_before)
        if stage.stage is Stage.SCAN:
            return
        if stage.stage is Stage.WRITE:
            self._add(seen, stage.stage, "models", stage.model_bytes_done)
            self._add(seen, stage.stage, "other", stage.bytes_done - stage.model_bytes_done)
        else:
            self._add(seen, stage.stage, "all", stage.bytes_done)

    def _add(self, seen: _Seen, stage: Stage, class_name: str, total: int) -> None:
        """Counts what came since the total before; what is reported late or again counts nothing."""
        before = seen.totals.get((stage, class_name), 0)
        if total > before:
            seen.totals[stage, class_name] = total
            self._bytes.labels(seen.kind.value, stage.value, class_name).inc(total - before)

    def _set_live_throughput(self, kind: OperationKind) -> None:
        rate = sum(seen.rate for seen in self._seen.values() if seen.kind is kind)
        self._live_throughput.labels(kind.value).set(rate)


class _Seen:
    """What was counted of a running operation."""

    def __init__(self, kind: OperationKind, started: float) -> None:
        self.kind = kind
        self.started = started
        self.rate = 0.0
        self.totals: dict[tuple[Stage, str], int] = {}
        self.busy: dict[Stage, float] = {}


class MetricsServer:
    """Serves the metrics over HTTP, from threads of its own.

    Args:
        host: where to listen.
        port: where to listen; 0 for any free port.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(port, host, metrics.registry)
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _outcome(completed: Completed) -> str:
    """Returns the label ``result``: the state, or that there were warnings."""
    if completed.state is OperationState.SUCCEEDED and completed.result is not None and completed.result.warnings:
        return "succeeded_with_warnings"
    return completed.state.value
