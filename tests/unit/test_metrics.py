"""What Prometheus sees of operations."""

from __future__ import annotations

from agent.errors import StorageUnavailableError, describe
from agent.events import (
    ClassTotals,
    Completed,
    OperationEvent,
    OperationKind,
    OperationResult,
    OperationState,
    PresentReport,
    Progress,
    ScanTotals,
    Stage,
    StageProgress,
    StateChanged,
    WarningRaised,
)
from agent.metrics import Metrics
from agent.operations.record import LoggedEvent

SECOND = 1_000_000_000


class Observed:
    """Metrics and a clock."""

    def __init__(self) -> None:
        self._time = 0
        self.metrics = Metrics("1.2.3", clock=lambda: self._time / SECOND)

    def see(self, name: str, kind: OperationKind, *events: OperationEvent, seconds: int = 0) -> None:
        self._time += seconds * SECOND
        for event in events:
            self.metrics.observe(name, kind, LoggedEvent(1, self._time, event))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def bytes(self, operation: str, stage: str, class_name: str) -> float | None:
        return self.value("gpusnap_bytes_total", **{"operation": operation, "stage": stage, "class": class_name})


def progress(stage: Stage, done: int, models: int = 0, rate: float = 0.0) -> Progress:
    return Progress((StageProgress(stage, bytes_done=done, model_bytes_done=models, bytes_per_second=rate),))


PENDING = StateChanged(OperationState.PENDING)


def test_bytes_are_counted_once_by_stage_and_class() -> None:
    seen = Observed()
    for operation in ("a", "b"):
        seen.see(operation, OperationKind.SNAPSHOT, PENDING, ScanTotals(models=ClassTotals(1, 10)))
        seen.see(operation, OperationKind.SNAPSHOT, ScanTotals(models=ClassTotals(1, 30), other=ClassTotals(1, 5)))
        seen.see(operation, OperationKind.SNAPSHOT, progress(Stage.SCAN, 35), progress(Stage.PACK, 20))
        seen.see(operation, OperationKind.SNAPSHOT, progress(Stage.PACK, 35), progress(Stage.PACK, 30))
        stages = (StageProgress(Stage.PACK, 35), StageProgress(Stage.UPLOAD, 7))
        result = OperationResult("s", raw_bytes=100, seconds=2.0, stages=stages)
        seen.see(operation, OperationKind.SNAPSHOT, Completed(OperationState.SUCCEEDED, None, result), seconds=3)
    assert seen.bytes("snapshot", "scan", "models") == 60
    assert seen.bytes("snapshot", "scan", "other") == 10
    assert seen.bytes("snapshot", "scan", "all") is None
    assert seen.bytes("snapshot", "pack", "all") == 70
    assert seen.bytes("snapshot", "upload", "all") == 14


def test_a_restore_tells_models_apart_where_it_writes() -> None:
    seen = Observed()
    seen.see("r", OperationKind.RESTORE, PENDING, ScanTotals(models=ClassTotals(1, 10)))
    seen.see("r", OperationKind.RESTORE, progress(Stage.DOWNLOAD, 50), progress(Stage.WRITE, 100, models=80))
    assert seen.bytes("restore", "write", "models") == 80
    assert seen.bytes("restore", "write", "other") == 20
    assert seen.bytes("restore", "download", "all") == 50
    assert seen.bytes("restore", "scan", "models") is None


def test_the_live_throughput_adds_up_and_ends_at_zero() -> None:
    seen = Observed()
    name = "gpusnap_throughput_bytes_per_second"
    assert seen.value(name, operation="restore") == 0
    seen.see("a", OperationKind.RESTORE, PENDING, progress(Stage.WRITE, 1, rate=100.0))
    seen.see("b", OperationKind.RESTORE, PENDING, progress(Stage.WRITE, 1, rate=50.0))
    seen.see("c", OperationKind.SNAPSHOT, PENDING, progress(Stage.PACK, 1, rate=7.0), progress(Stage.UPLOAD, 1, rate=1))
    assert seen.value(name, operation="restore") == 150
    assert seen.value(name, operation="snapshot") == 7
    assert seen.value("gpusnap_operations_running") == 3
    for operation in ("a", "b"):
        seen.see(operation, OperationKind.RESTORE, Completed(OperationState.CANCELLED))
    assert seen.value(name, operation="restore") == 0
    assert seen.value("gpusnap_operations_running") == 1


def test_how_operations_end() -> None:
    seen = Observed()
    error = describe(StorageUnavailableError("gone"))
    ends = {
        "succeeded": Completed(OperationState.SUCCEEDED, None, OperationResult("s", raw_bytes=2_000_000, seconds=2.0)),
        "succeeded_with_warnings": Completed(OperationState.SUCCEEDED, None, OperationResult("s", warnings=1)),
        "failed": Completed(OperationState.FAILED, error),
        "cancelled": Completed(OperationState.CANCELLED),
    }
    for result, end in ends.items():
        seen.see(result, OperationKind.SNAPSHOT, PENDING)
        seen.see(result, OperationKind.SNAPSHOT, end, seconds=10)
        labels = {"operation": "snapshot", "result": result}
        assert seen.value("gpusnap_operations_total", **labels) == 1
        assert seen.value("gpusnap_operation_duration_seconds_sum", **labels) == 10
    assert seen.value("gpusnap_last_success_timestamp_seconds", operation="snapshot") == 20
    assert seen.value("gpusnap_operation_throughput_bytes_per_second_sum", operation="snapshot") == 1_000_000
    assert seen.value("gpusnap_last_success_timestamp_seconds", operation="restore") is None


def test_what_snapshots_did_not_read_adds_up() -> None:
    seen = Observed()
    for name in ("a", "b"):
        result = OperationResult("s", unchanged_files=3, unchanged_bytes=100)
        seen.see(name, OperationKind.SNAPSHOT, PENDING, Completed(OperationState.SUCCEEDED, None, result))
    assert seen.value("gpusnap_unchanged_files_total") == 6
    assert seen.value("gpusnap_unchanged_bytes_total") == 200


def test_what_restores_found_in_their_targets_adds_up() -> None:
    seen = Observed()
    for name in ("a", "b"):
        result = OperationResult("s", present=PresentReport(kept_files=3, kept_bytes=100, copied_bytes=50))
        seen.see(name, OperationKind.RESTORE, PENDING, Completed(OperationState.SUCCEEDED, None, result))
    assert seen.value("gpusnap_kept_files_total") == 6
    assert seen.value("gpusnap_kept_bytes_total") == 200
    assert seen.value("gpusnap_copied_bytes_total") == 100


def test_the_throughput_leaves_out_what_was_not_read_or_written() -> None:
    seen = Observed()
    name = "gpusnap_operation_throughput_bytes_per_second"
    saved = OperationResult("s", raw_bytes=1000, unchanged_bytes=400, seconds=2.0)
    restored = OperationResult("s", raw_bytes=1000, present=PresentReport(1, 800, 0), seconds=2.0)
    intact = OperationResult("s", raw_bytes=1000, present=PresentReport(1, 1000, 0), seconds=2.0)
    ends = [(OperationKind.SNAPSHOT, saved), (OperationKind.RESTORE, restored), (OperationKind.RESTORE, intact)]
    for number, (kind, result) in enumerate(ends):
        seen.see(str(number), kind, PENDING, Completed(OperationState.SUCCEEDED, None, result))
    assert seen.value(f"{name}_sum", operation="snapshot") == 300
    assert (seen.value(f"{name}_sum", operation="restore"), seen.value(f"{name}_count", operation="restore")) == (
        100,
        1,
    )


def test_an_operation_that_a_restart_ended_counts_without_a_duration() -> None:
    seen = Observed()
    seen.see("old", OperationKind.SNAPSHOT, Completed(OperationState.FAILED))
    assert seen.value("gpusnap_operations_total", operation="snapshot", result="failed") == 1
    assert seen.value("gpusnap_operations_running") == 0


def test_warnings_are_counted_by_path() -> None:
    seen = Observed()
    seen.see("a", OperationKind.SNAPSHOT, PENDING, WarningRaised("FILE_CHANGED", "m", (b"a", b"b"), 5))
    seen.see("a", OperationKind.SNAPSHOT, WarningRaised("FILE_CHANGED", "m"))
    assert seen.value("gpusnap_warnings_total", operation="snapshot", reason="FILE_CHANGED") == 6


def test_build_info() -> None:
    assert Observed().value("gpusnap_build_info", version="1.2.3") == 1
