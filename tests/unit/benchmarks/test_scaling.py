"""How the benchmark tells what a restore makes of more cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.benchmarks.measure import Usage
from tests.benchmarks.rounds import Case, Skipped
from tests.benchmarks.scaling import Scaling, ScalingSample, measure_scaling, others, scaling_lines, scaling_targets
from tests.benchmarks.stores import Store, StoreKind
from tests.benchmarks.workspace import Contents


def test_the_target_is_from_2_to_16_cores() -> None:
    [target] = scaling_targets({2: 10.0, 8: 3.0, 16: 2.0})
    assert (target.name, target.value, target.verdict) == ("restore throughput, 2 -> 16 cores", 5.0, "reached")
    assert [each.verdict for each in scaling_targets({2: 10.0, 16: 2.1})] == ["missed"]
    assert [each.verdict for each in scaling_targets({1: 10.0, 2: 5.0})] == ["not measured"]


def test_the_table_has_medians_and_gains() -> None:
    samples = [
        ScalingSample(cores, number, Usage(seconds, 4.0, 5.0, 0))
        for cores, times in ((4, (2.0, 3.0, 90.0)), (2, (6.0, 5.0, 6.0)))
        for number, seconds in enumerate(times, 1)
    ]
    scaling = Scaling("w", 6_000_000_000, samples, scaling_targets({}), [Skipped("16 cores", "this machine has 4")])
    rows = [line.split() for line in scaling_lines(scaling)]
    assert rows[2:4] == [["2", "6.00", "1.00", "1.00", "4.0"], ["4", "3.00", "2.00", "2.00", "4.0"]]
    assert " ".join(rows[4]) == "skipped: 16 cores: this machine has 4"


def test_the_store_has_the_cores_that_are_left() -> None:
    usable = sorted(os.sched_getaffinity(0))
    assert others(usable) == set(usable)
    assert others(usable[:1]) == (set(usable[1:]) or set(usable))


@pytest.mark.parametrize(
    ("cores", "size", "reason"),
    [(4096, 1, f"this machine has {len(os.sched_getaffinity(0))}"), (1, 1 << 50, "GB of memory, and")],
)
def test_what_cannot_be_measured_here_is_named(tmp_path: Path, cores: int, size: int, reason: str) -> None:
    case = Case("w", tmp_path, Contents(1, 1, size, (), 0), tmp_path)
    scaling = Scaling("w", size)
    measure_scaling(scaling, case, [cores], "stream", 1, Store(StoreKind.SEAWEED, _NoServer(), "", None))
    [skipped] = scaling.skipped
    assert skipped.tool == f"{cores} core{'s' if cores > 1 else ''}"
    assert reason in skipped.reason
    assert [target.value for target in scaling.targets] == [None]


class _NoServer:
    def make_bucket(self) -> str:
        raise AssertionError("nothing shall be measured")

    def remove_bucket(self, bucket: str) -> None:
        raise AssertionError("nothing shall be measured")
