"""The live view of running operations on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from controller_client.cli import units
from controller_client.cli.tracker import Tracker
from controller_client.model import OperationState, StageProgress

_REFRESHES_PER_SECOND = 8
_BAR_WIDTHS = (6, 28)
_BESIDE_BAR = 76
"""Columns that a line needs beside its bar, without a host's name."""
_STYLES = {
    OperationState.SUCCEEDED: "green",
    OperationState.FAILED: "red",
    OperationState.CANCELLED: "yellow",
    OperationState.CANCELLING: "yellow",
}


class TerminalView:
    """Bars on a terminal: one per stage, or one per host if there are several."""

    def __init__(self, console: Console, *, several: bool) -> None:
        self._console = console
        self._several = several
        self._trackers: list[Tracker] = []
        self._live: Live | None = None

    def message(self, text: str) -> None:
        """Writes one line above the bars."""
        self._console.print(Text(text), soft_wrap=True)

    def show(self, tracker: Tracker) -> None:
        """Shows an operation from now on."""
        self._trackers.append(tracker)
        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=lambda: self.render(self._trackers),
                refresh_per_second=_REFRESHES_PER_SECOND,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start()

    def settle(self) -> None:
        """Ends the live view of a single host; that of several goes on until all have ended."""
        if not self._several:
            self._stop()

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def __enter__(self) -> TerminalView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def render(self, trackers: Sequence[Tracker]) -> RenderableType:
        """Returns what is shown of these operations."""
        if self._several:
            names = max((len(tracker.host) for tracker in trackers), default=0)
            return _hosts(trackers, self._bar_width(names + _BESIDE_BAR))
        return Group(*(_operation(tracker, self._bar_width(_BESIDE_BAR)) for tracker in trackers))

    def _bar_width(self, beside: int) -> int:
        least, most = _BAR_WIDTHS
        return max(least, min(most, self._console.width - beside))


def _operation(tracker: Tracker, bar_width: int) -> RenderableType:
    head = Text.assemble(
        (tracker.title, "bold"), "  ", _state(tracker), f"  {units.clock(tracker.elapsed(time.monotonic()))}"
    )
    if tracker.eta_seconds is not None and not tracker.state.ended:
        head.append(f"  about {units.clock(tracker.eta_seconds)} left")
    if tracker.warnings:
        head.append("  ").append_text(_warnings(tracker))
    if tracker.trouble:
        head.append(f"  {tracker.trouble}", "red")
    return Group(head, _stages(tracker, bar_width)) if tracker.stages else head


def _stages(tracker: Tracker, bar_width: int) -> Table:
    table = _grid(
        Column(width=12), Column(), Column(justify="right", width=5), Column(justify="right", width=21),
        Column(justify="right", width=10), Column(justify="right"),
    )  # fmt: skip
    for stage in tracker.stages:
        table.add_row(
            f"  {stage.stage.value}",
            _bar(stage, bar_width, succeeded=tracker.state is OperationState.SUCCEEDED),
            _percent(stage),
            _amount(stage),
            _rate(stage),
            units.count(stage.entries_done, "entry", "entries") if stage.entries_done else "",
        )
    return table


def _hosts(trackers: Iterable[Tracker], bar_width: int) -> Table:
    table = _grid(
        Column(), Column(width=10), Column(), Column(justify="right", width=5), Column(justify="right", width=21),
        Column(justify="right", width=10), Column(justify="right", width=7), Column(),
    )  # fmt: skip
    for tracker in trackers:
        stage = tracker.main_stage
        eta = tracker.eta_seconds
        table.add_row(
            Text(tracker.host, "bold"),
            _state(tracker),
            _bar(stage, bar_width, succeeded=tracker.state is OperationState.SUCCEEDED) if stage else "",
            _percent(stage) if stage else "",
            _amount(stage) if stage else "",
            _rate(stage) if stage else "",
            units.clock(eta) if eta is not None and not tracker.state.ended else "",
            Text(tracker.trouble, "red") if tracker.trouble else _warnings(tracker),
        )
    return table


def _grid(*columns: Column) -> Table:
    table = Table(*columns, box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    return table


def _state(tracker: Tracker) -> Text:
    return Text(tracker.state.value, _STYLES.get(tracker.state, "cyan"))


def _warnings(tracker: Tracker) -> Text:
    return Text(units.count(tracker.warnings, "warning") if tracker.warnings else "", "yellow")


def _share(stage: StageProgress) -> tuple[int, int]:
    """Returns done and total in what the stage counts best; total is 0 while unknown."""
    if stage.bytes_total:
        return stage.bytes_done, stage.bytes_total
    return stage.entries_done, stage.entries_total


def _bar(stage: StageProgress, width: int, *, succeeded: bool) -> ProgressBar:
    done, total = _share(stage)
    if not total and succeeded:
        done = total = 1
    return ProgressBar(total=total or None, completed=min(done, total), width=width, pulse=not total)


def _rate(stage: StageProgress) -> str:
    return units.rate(stage.bytes_per_second) if stage.bytes_per_second else ""


def _percent(stage: StageProgress) -> str:
    done, total = _share(stage)
    return f"{min(100, done * 100 // total)} %" if total else ""


def _amount(stage: StageProgress) -> str:
    if not stage.bytes_done and not stage.bytes_total:
        return ""
    if stage.bytes_total and stage.bytes_done != stage.bytes_total:
        return f"{units.size(stage.bytes_done)} of {units.size(stage.bytes_total)}"
    return units.size(stage.bytes_done)
