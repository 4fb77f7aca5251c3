"""What a terminal shows of a running operation."""

from __future__ import annotations

from rich.console import Console

from controller_client.cli.terminal_view import TerminalView
from controller_client.cli.tracker import Tracker
from controller_client.model import (
    Completed,
    Event,
    EventDetail,
    OperationResult,
    OperationState,
    Progress,
    Stage,
    StageProgress,
    StateChanged,
    WarningRaised,
)

MIB = 1 << 20


def test_one_host_has_a_bar_per_stage() -> None:
    tracker = feed(
        StateChanged(OperationState.RUNNING),
        Progress(
            (
                StageProgress(Stage.SCAN, entries_done=1234, entries_total=1234),
                StageProgress(Stage.UPLOAD, 50 * MIB, 200 * MIB, bytes_per_second=10 * MIB),
            ),
            eta_seconds=15,
        ),
        WarningRaised("FILE_CHANGED", "x changed"),
    )
    shown = render([tracker], several=False)
    for text in ("snapshot of /w", "running", "0:15 left", "1 warning", "scan", "1,234 entries"):
        assert text in shown
    for text in ("upload", "25 %", "50.0 MiB of 200 MiB", "10.0 MiB/s"):
        assert text in shown


def test_several_hosts_have_a_line_each() -> None:
    one = feed(Progress((StageProgress(Stage.WRITE, 1 * MIB, 2 * MIB),)), host="gpu-1")
    two = feed(Completed(OperationState.SUCCEEDED, result=OperationResult("id", seconds=3)), host="gpu-2")
    lines = render([one, two], several=True).splitlines()
    assert len(lines) == 2
    assert "gpu-1" in lines[0]
    assert "50 %" in lines[0]
    assert "gpu-2" in lines[1]
    assert "succeeded" in lines[1]


def test_a_lost_connection_is_shown_until_the_next_event() -> None:
    tracker = feed(StateChanged(OperationState.RUNNING))
    tracker.trouble = "connection lost"
    assert "connection lost" in render([tracker], several=False)
    tracker.update(Event("op", 2, 0, StateChanged(OperationState.RUNNING)), 1.0)
    assert "connection lost" not in render([tracker], several=False)


def test_markup_in_names_is_only_text() -> None:
    tracker = feed(StateChanged(OperationState.RUNNING), title="snapshot of /[red]w[/red]", host="[bold]h")
    assert "/[red]w[/red]" in render([tracker], several=False)
    assert "[bold]h" in render([tracker], several=True)


def test_the_main_stage_is_the_one_nearest_to_the_result() -> None:
    tracker = feed(Progress((StageProgress(Stage.SCAN), StageProgress(Stage.PACK), StageProgress(Stage.UPLOAD))))
    assert tracker.main_stage is not None
    assert tracker.main_stage.stage is Stage.UPLOAD
    tracker = feed(Progress((StageProgress(Stage.PACK, 1, 2), StageProgress(Stage.UPLOAD, 1))))
    assert tracker.main_stage is not None
    assert tracker.main_stage.stage is Stage.PACK
    assert feed().main_stage is None


def feed(*details: EventDetail, title: str = "snapshot of /w", host: str = "h") -> Tracker:
    tracker = Tracker(host, title, 0.0)
    for number, detail in enumerate(details, 1):
        tracker.update(Event("op", number, 0, detail), float(number))
    return tracker


def render(trackers: list[Tracker], *, several: bool) -> str:
    console = Console(width=140, force_terminal=False)
    view = TerminalView(console, several=several)
    with console.capture() as capture:
        console.print(view.render(trackers))
    return capture.get()
