"""What the meter says: counts per stage, rates, the time left; and warnings are one event per reason."""

from __future__ import annotations

from agent.events import PipelineEvent, Progress, Stage, WarningRaised
from agent.pipeline.meter import Meter, Reporter
from agent.pipeline.warnings import PATHS_PER_WARNING, Warnings

STAGES = (Stage.SCAN, Stage.PACK, Stage.UPLOAD)


def test_stages_appear_once_they_begin_and_in_order() -> None:
    meter = Meter(STAGES, leading=Stage.PACK)
    assert meter.progress() == Progress(())
    meter.add(Stage.UPLOAD, 5, entries=1, busy_seconds=0.5, model_bytes=2)
    meter.add(Stage.UPLOAD, 5)
    meter.add(Stage.SCAN, entries=3)
    scan, upload = meter.progress().stages
    assert (scan.stage, scan.entries_done) == (Stage.SCAN, 3)
    assert (upload.bytes_done, upload.entries_done, upload.busy_seconds, upload.model_bytes_done) == (10, 1, 0.5, 2)
    assert [stage.stage for stage in meter.stages()] == [Stage.SCAN, Stage.UPLOAD]


def test_the_time_left_is_known_once_there_is_a_rate() -> None:
    meter = Meter(STAGES, leading=Stage.PACK)
    meter.expect(Stage.PACK, 1000, 10)
    assert meter.progress().eta_seconds is None
    meter.add(Stage.PACK, 400)
    progress = meter.progress()
    assert progress.eta_seconds is not None
    (pack,) = progress.stages
    assert (pack.bytes_total, pack.entries_total) == (1000, 10)
    assert pack.bytes_per_second > 0
    assert abs(progress.eta_seconds * pack.bytes_per_second - 600) < 1


def test_what_is_spared_is_not_expected_any_more() -> None:
    meter = Meter(STAGES, leading=Stage.PACK)
    meter.spare(Stage.PACK, 300, 3)
    meter.add(Stage.PACK, 1)
    meter.expect(Stage.PACK, 1000, 10)
    meter.spare(Stage.PACK, 200, 2)
    (pack,) = meter.progress().stages
    assert (pack.bytes_total, pack.entries_total) == (500, 5)
    meter.spare(Stage.PACK, 501, 9)
    (pack,) = meter.progress().stages
    assert (pack.bytes_total, pack.entries_total) == (0, 0)


def test_the_last_report_comes_when_the_reporter_is_closed() -> None:
    meter = Meter(STAGES, leading=Stage.PACK)
    events: list[PipelineEvent] = []
    with Reporter(meter, events.append):
        meter.add(Stage.PACK, 7)
    last = events[-1]
    assert isinstance(last, Progress)
    assert last.stages[0].bytes_done == 7


def test_warnings_are_one_event_per_reason() -> None:
    warnings = Warnings()
    for number in range(PATHS_PER_WARNING + 5):
        warnings.add("CHANGED", f"message {number}", b"%d" % number)
    warnings.add("VANISHED", "gone", b"x")
    events: list[PipelineEvent] = []
    warnings.emit(events.append)
    assert warnings.count == PATHS_PER_WARNING + 6
    assert events == [
        WarningRaised(
            "CHANGED", "message 0", tuple(b"%d" % n for n in range(PATHS_PER_WARNING)), PATHS_PER_WARNING + 5
        ),
        WarningRaised("VANISHED", "gone", (b"x",), 1),
    ]
