"""What is known of transfer engines as messages of the service. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.events import BenchmarkReport, BenchmarkRun, Direction, Measurement
from agent.rpc.text import shown
from agent.storage.choice import Choice

DIRECTIONS: Mapping[Direction, pb.Direction.ValueType] = {
    Direction.UPLOAD: pb.DIRECTION_UPLOAD,
    Direction.DOWNLOAD: pb.DIRECTION_DOWNLOAD,
}


def measurement(value: Measurement) -> pb.Measurement:
    """Returns how fast an engine was."""
    time = Timestamp()
    time.FromNanoseconds(value.time_ns)
    return pb.Measurement(
        engine=value.engine,
        direction=DIRECTIONS[value.direction],
        bytes_per_second=value.bytes_per_second,
        time=time,
        cpu_seconds_per_gb=value.cpu_seconds_per_gb,
        operation=value.operation,
    )


def engine_use(direction: Direction, choice: Choice, measurements: Iterable[Measurement]) -> pb.EngineUse:
    """Returns the engine that is taken in one direction, with what was measured in it."""
    return pb.EngineUse(
        direction=DIRECTIONS[direction],
        engine=choice.engine,
        reason=shown(choice.reason),
        measurements=[measurement(item) for item in measurements if item.direction is direction],
    )


def benchmark_report(value: BenchmarkReport) -> pb.BenchmarkReport:
    """Returns what a benchmark did."""
    return pb.BenchmarkReport(
        provider=pb.Provider.Value(f"PROVIDER_{value.provider.upper()}"),
        bucket=value.bucket,
        endpoint=value.endpoint,
        runs=[_run(run) for run in value.runs],
    )


def _run(value: BenchmarkRun) -> pb.BenchmarkRun:
    return pb.BenchmarkRun(
        engine=value.engine,
        direction=DIRECTIONS[value.direction],
        round=value.round,
        bytes=value.bytes,
        seconds=value.seconds,
        cpu_seconds=value.cpu_seconds,
    )
