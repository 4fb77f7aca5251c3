"""The live view of running operations on a terminal, and the silence off it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from controller_client.cli import units
from controller_client.cli.output import Stderr
from controller_client.cli.tracker import Tracker
from controller_client.model import OperationState, StageProgress

_REFRESHES_PER_SECOND = 8
_BAR_WIDTH = 28
_STYLES = {
    OperationState.SUCCEEDED: "green",
    OperationState.FAILED: "red",
    OperationState.CANCELLED: "yellow",
    OperationState.CANCELLING: "yellow",
}


class View(Protocol):
    """Shows running operations, and takes messages meanwhile."""

    def message(self, text: str) -> None:
        """Writes one line to stderr, above what is shown."""
        ...

    def show(self, tracker: Tracker) -> None:
        """Shows an operation from now on, as its tracker changes."""
        ...

    def settle(self) -> None:
        """Leaves the last state of a single operation where it stands, so that what follows comes below it."""
        ...

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def choose_view(*, several: bool, shown: bool) -> View:
    """Returns a live view if stderr is a terminal that can show one and ``shown`` allows it."""
    console = Console(stderr=True, highlight=False)
    if shown and sys.stderr.isatty() and not console.is_dumb_terminal:
        return TerminalView(console, several=several)
    return PlainView()


class PlainView(Stderr):
    """Shows nothing but messages."""

    def show(self, tracker: Tracker) -> None:
        """Shows nothing."""

    def settle(self) -> None:
        """Does nothing."""

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


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
            return _hosts(trackers)
        return Group(*(_operation(tracker) for tracker in trackers))


def _operation(tracker: Tracker) -> RenderableType:
    head = Text.assemble(
        (tracker.title, "bold"), "  ", _state(tracker), f"  {units.duration(tracker.elapsed(time.monotonic()))}"
    )
    if tracker.eta_seconds is not None and not tracker.state.ended:
        head.append(f"  about {units.duration(tracker.eta_seconds)} left")
    if tracker.warnings:
        head.append(f"  {units.count(tracker.warnings, 'warning')}", "yellow")
    if tracker.trouble:
        head.append(f"  {tracker.trouble}", "red")
    return Group(head, _stages(tracker.stages)) if tracker.stages else head


def _stages(stages: Iterable[StageProgress]) -> Table:
    table = _grid(justify=("left", "left", "right", "right", "right", "right"))
    for stage in stages:
        table.add_row(
            f"  {stage.stage.value}",
            _bar(stage),
            _percent(stage),
            _amount(stage),
            units.rate(stage.bytes_per_second) if stage.bytes_per_second else "",
            units.count(stage.entries_done, "entry", "entries") if stage.entries_done else "",
        )
    return table


def _hosts(trackers: Iterable[Tracker]) -> Table:
    table = _grid(justify=("left", "left", "left", "right", "right", "right", "right", "left"))
    for tracker in trackers:
        stage = tracker.main_stage
        eta = tracker.eta_seconds
        table.add_row(
            Text(tracker.host, "bold"),
            _state(tracker),
            _bar(stage) if stage else "",
            _percent(stage) if stage else "",
            _amount(stage) if stage else "",
            units.rate(stage.bytes_per_second) if stage and stage.bytes_per_second else "",
            units.duration(eta) if eta is not None and not tracker.state.ended else "",
            Text(tracker.trouble, "red") if tracker.trouble else _warnings(tracker),
        )
    return table


def _grid(justify: tuple[str, ...]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for side in justify:
        table.add_column(justify="right" if side == "right" else "left", no_wrap=True)
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


def _bar(stage: StageProgress) -> ProgressBar:
    done, total = _share(stage)
    return ProgressBar(total=total or None, completed=min(done, total), width=_BAR_WIDTH, pulse=not total)


def _percent(stage: StageProgress) -> str:
    done, total = _share(stage)
    return f"{min(100, done * 100 // total)} %" if total else ""


def _amount(stage: StageProgress) -> str:
    if not stage.bytes_done and not stage.bytes_total:
        return ""
    if stage.bytes_total and stage.bytes_done != stage.bytes_total:
        return f"{units.size(stage.bytes_done)} of {units.size(stage.bytes_total)}"
    return units.size(stage.bytes_done)
