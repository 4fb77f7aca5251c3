"""Medians, ratios, targets and tables of the benchmark."""

from __future__ import annotations

import msgspec
import pytest

from tests.benchmarks.measure import Usage
from tests.benchmarks.rounds import Sample, Skipped
from tests.benchmarks.table import (
    Target,
    ours_of,
    skipped_lines,
    small_file_targets,
    summarize,
    summary_lines,
    target_lines,
    workspace_targets,
)
from tests.benchmarks.tools import Action
from tests.benchmarks.verify import Verdict

MIB = 1 << 20


def _sample(
    tool: str, action: Action, seconds: float, *, round_: int = 1, memory: int = MIB, cpu: float = 1.0
) -> Sample:
    health = (0.001, 0.002, 0.004) if tool.startswith("gpusnap") else ()
    return Sample(tool, action, round_, Usage(seconds, cpu, 2 * cpu, memory, health), 0.5)


SAMPLES = [
    _sample("gpusnap, s5cmd", Action.SNAPSHOT, 12.0),
    *(_sample("gpusnap, s5cmd", Action.RESTORE, seconds, round_=n) for n, seconds in enumerate((6.0, 4.0, 90.0), 1)),
    _sample("gpusnap, stream", Action.RESTORE, 5.0, memory=700 * MIB),
    _sample("gpusnap, stream", Action.RESTORE_WEIGHTS, 2.0, cpu=1.5),
    _sample("gpusnap, directory", Action.RESTORE, 3.0),
    _sample("gpusnap, stream", Action.UNCHANGED, 0.5),
    _sample("restic", Action.UNCHANGED, 2.5),
    _sample("restic", Action.RESTORE, 20.0),
    _sample("s5cmd cp", Action.RESTORE, 4.0),
]


AUTO = [
    msgspec.structs.replace(sample, usage=msgspec.structs.replace(sample.usage, engine=engine))
    for sample, engine in (
        (_sample("gpusnap, auto", Action.RESTORE, 8.0, round_=1), "stream"),
        (_sample("gpusnap, auto", Action.RESTORE, 9.0, round_=2), "stream"),
        (_sample("gpusnap, auto", Action.RESTORE, 9.5, round_=3), "s5cmd"),
        (_sample("gpusnap, auto", Action.RESTORE_WEIGHTS, 1.0, cpu=3.0), "stream"),
        (_sample("gpusnap, stream", Action.RESTORE, 1.0), "stream"),
    )
]


def _values(targets: list[Target]) -> dict[str, tuple[float | None, str]]:
    return {target.name: (target.value, target.verdict) for target in targets}


def test_a_summary_holds_medians_and_the_ratio_to_ours() -> None:
    found = summarize(SAMPLES)
    of_s5cmd = found["gpusnap, s5cmd", Action.RESTORE]
    assert (of_s5cmd.rounds, of_s5cmd.seconds, of_s5cmd.ratio) == (3, 6.0, 1.2)
    assert found["restic", Action.RESTORE].ratio == 4.0
    assert found["restic", Action.RESTORE].health_p99_seconds is None
    assert found["gpusnap, s5cmd", Action.SNAPSHOT].ratio is None, "the engine compared with saved nothing"


@pytest.mark.parametrize(
    ("seconds", "ours"),
    [
        ({"gpusnap, s5cmd": 6.0, "gpusnap, stream": 5.0, "gpusnap, directory": 3.0, "restic": 1.0}, "gpusnap, stream"),
        ({"gpusnap, auto": 9.0, "gpusnap, s5cmd": 6.0}, "gpusnap, auto"),
        ({"gpusnap, directory": 3.0}, "gpusnap, directory"),
        ({"restic": 1.0}, "gpusnap, auto"),
    ],
)
def test_others_are_compared_with_auto_or_the_quickest_engine_over_s3(seconds: dict[str, float], ours: str) -> None:
    assert ours_of({(tool, Action.RESTORE): value for tool, value in seconds.items()}) == ours


def test_targets_are_ratios_of_medians() -> None:
    values = _values(workspace_targets(summarize(SAMPLES), weight_bytes=2_000_000_000))
    assert values["restore / s5cmd cp of the same chunks"] == (1.25, "missed")
    assert values["restic restore / ours"] == (4.0, "reached")
    assert values["engine s5cmd restore / engine stream restore"] == (1.2, "reached")
    assert values["client CPU s per GB of weights restored"] == (0.75, "reached")
    assert values["restic backup / ours"] == (None, "not measured")
    assert values["restic backup / ours, unchanged"] == (5.0, "reached")
    assert values["peak memory of the process tree, MiB"] == (700.0, "missed")
    assert values["health p99, ms"][1] == "reached"


def test_what_users_have_is_judged_though_another_engine_was_quicker() -> None:
    found = summarize([*AUTO, *SAMPLES])
    values = _values(workspace_targets(found, weight_bytes=2_000_000_000))
    assert values["restore / s5cmd cp of the same chunks"] == (2.25, "missed")
    assert values["client CPU s per GB of weights restored"] == (1.5, "missed")
    restores = [line for line in summary_lines(found, {}) if line.startswith("restore  ")]
    assert any(" gpusnap, auto (stream, s5cmd) *" in line for line in restores)
    assert any(" gpusnap, stream  " in line for line in restores)


def test_https_has_a_row_of_its_own() -> None:
    values = _values(workspace_targets(summarize(SAMPLES), weight_bytes=2_000_000_000, tls=True))
    assert values["client CPU s per GB of weights restored (https)"] == (0.75, "reached")
    assert "client CPU s per GB of weights restored" not in values


def test_small_files_are_counted_by_the_second() -> None:
    values = _values(small_file_targets(summarize(SAMPLES), files=200_000))
    assert values["restore, files/s"] == (40_000, "reached")


def test_nothing_measured_reaches_nothing() -> None:
    targets = [*workspace_targets({}, 0), *small_file_targets({}, 0)]
    assert {target.verdict for target in targets} == {"not measured"}


def test_tables_show_the_quickest_first_and_name_what_was_skipped() -> None:
    found = summarize(SAMPLES)
    table = list(summary_lines(found, {"restic": Verdict(0, 3), "gpusnap, stream": Verdict(0, 0)}))
    restores = [line for line in table if line.startswith("restore  ")]
    order = ["gpusnap, directory", "s5cmd cp", "gpusnap, stream *", "gpusnap, s5cmd", "restic"]
    assert [next(tool for tool in order if f" {tool} " in line) for line in restores] == order
    assert restores[2].endswith("equal")
    assert restores[4].endswith("content equal, metadata of 3 not")
    targets = list(target_lines(workspace_targets(found, 2_000_000_000)))
    assert any("<= 0.9" in line and line.endswith("missed") for line in targets)
    assert list(skipped_lines([Skipped("rclone", "rclone missing")])) == ["skipped: rclone: rclone missing"]
