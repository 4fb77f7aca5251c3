"""The figures of the demonstration as tables."""

from __future__ import annotations

import http.client
import urllib.request

from rich.console import Console
from rich.table import Table

from controller_client.model import OperationResult

_SHOWN_METRICS = (
    'gpusnap_bytes_total{class="all",operation="snapshot",stage="upload"}',
    'gpusnap_bytes_total{class="models",operation="restore",stage="write"}',
    'gpusnap_bytes_total{class="other",operation="restore",stage="write"}',
    "gpusnap_operations_total",
    "gpusnap_last_success_timestamp_seconds",
    "gpusnap_event_loop_lag_seconds",
)


def show_results(console: Console, snapshot: OperationResult, restore: OperationResult) -> None:
    """Prints what was moved, and how fast each stage was."""
    totals = Table(title="what was moved", title_justify="left")
    totals.add_column("")
    totals.add_column("snapshot", justify="right")
    totals.add_column("restore", justify="right")
    for name, saved, restored in zip(_TOTALS, _figures(snapshot), _figures(restore), strict=True):
        totals.add_row(name, saved, restored)
    console.print(totals)
    stages = Table(
        title="stage by stage; all run at the same time", title_justify="left", caption_justify="left",
        caption="MB/s: over the whole operation\nbusy: seconds of work, summed over threads",
    )  # fmt: skip
    for column in ("", "stage", "MB", "entries", "busy", "MB/s", "MB/s busy"):
        stages.add_column(column, justify="left" if column in ("", "stage") else "right")
    for name, result in (("snapshot", snapshot), ("restore", restore)):
        for stage in result.stages:
            stages.add_row(
                name,
                stage.stage.name.lower(),
                _megabytes(stage.bytes_done) if stage.bytes_done else "",
                f"{stage.entries_done:,}" if stage.entries_done else "",
                f"{stage.busy_seconds:.1f}",
                _rate(stage.bytes_done, result.seconds),
                _rate(stage.bytes_done, stage.busy_seconds),
            )
        stages.add_section()
    console.print(stages)
    console.print(f"engine: {restore.engine}, {restore.engine_reason}", highlight=False)
    for name, result in (("snapshot", snapshot), ("restore", restore)):
        spent = ", ".join(f"{item.cause.value} {item.seconds:.1f} s" for item in result.occupation)
        console.print(f"{name}: its threads spent {spent}", highlight=False)


_TOTALS = ("files", "MB", "MB of models", "chunks", "chunks moved", "MB moved", "seconds", "MB/s")


def _figures(result: OperationResult) -> tuple[str, ...]:
    content = result.totals.models.bytes + result.totals.other.bytes
    return (
        f"{result.totals.models.files + result.totals.other.files:,}",
        _megabytes(content),
        _megabytes(result.totals.models.bytes),
        f"{result.chunks:,}",
        f"{result.chunks_transferred:,}",
        _megabytes(result.transferred_bytes),
        f"{result.seconds:.1f}",
        _rate(content, result.seconds),
    )


def show_metrics(console: Console, url: str) -> None:
    """Prints where the metrics are, and some of them."""
    console.print(f"metrics: {url}", highlight=False)
    try:
        with urllib.request.urlopen(url, timeout=10.0) as response:  # noqa: S310 - our own agent's
            lines = response.read().decode().splitlines()
    except (OSError, http.client.HTTPException) as error:
        console.print(f"  they do not answer: {error}", highlight=False)
        return
    for line in lines:
        if line.startswith(_SHOWN_METRICS):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f}"


def _rate(count: int, seconds: float) -> str:
    return f"{count / 1e6 / seconds:,.0f}" if count and seconds > 0 else ""
