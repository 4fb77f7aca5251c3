"""The outcome of benchmarks as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from controller_client.cli import units
from controller_client.cli.columns import columns
from controller_client.engines import Direction, Measurement
from controller_client.model import OperationResult
from controller_client.names import show_text

_HEADER = ("PROVIDER", "BUCKET", "ENGINE", "UPLOAD", "DOWNLOAD", "CPU UP", "CPU DOWN")
_RIGHT = (3, 4, 5, 6)


def benchmark_table(outcomes: Sequence[tuple[str, OperationResult]]) -> Iterator[str]:
    """Yields the lines of a table: one row an engine and store; each store comes with the name to show it by."""
    yield from columns(_HEADER, [row for label, result in outcomes for row in _rows(label, result)], right=_RIGHT)


def benchmarked(result: OperationResult) -> str:
    """Returns what a benchmark moved, in one line."""
    parts = [f"{units.size(result.transferred_bytes)} moved in {units.duration(result.seconds)}"]
    return "; ".join([*parts, units.count(result.warnings, "warning")] if result.warnings else parts)


def _rows(label: str, result: OperationResult) -> Iterator[tuple[str, ...]]:
    report = result.benchmark
    place = show_text(report.bucket or report.endpoint) if report is not None else ""
    by_engine: dict[str, dict[Direction, Measurement]] = {}
    for item in result.measurements:
        by_engine.setdefault(item.engine, {})[item.direction] = item
    for engine, found in sorted(by_engine.items()):
        up, down = found.get(Direction.UPLOAD), found.get(Direction.DOWNLOAD)
        yield show_text(label), place, show_text(engine), _speed(up), _speed(down), _cost(up), _cost(down)


def _speed(item: Measurement | None) -> str:
    return units.megabytes_a_second(item.bytes_per_second) if item is not None else ""


def _cost(item: Measurement | None) -> str:
    return f"{item.cpu_seconds_per_gb:.2f} s/GB" if item is not None else ""
