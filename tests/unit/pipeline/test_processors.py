"""How long processors have nothing to do."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from agent.pipeline.processors import Reading, idle_seconds, read_processors, usable_seconds

STAT = """cpu  100 0 100 9999 9999 0 0 0 0 0
cpu0 10 0 10 {idle} {waiting} 0 0 0 0 0
cpu1 10 0 10 {idle} {waiting} 0 0 0 0 0
cpu2 10 0 10 {idle} {waiting} 0 0 0 0 0
intr 5
"""
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel says of three processors, of which two may be used."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    path = tmp_path / "stat"
    path.write_text(STAT.format(idle=3 * TICKS, waiting=TICKS))
    return path


def test_only_processors_that_may_be_used_count(stat: Path, tmp_path: Path) -> None:
    reading = read_processors(stat, tmp_path)
    assert (reading.idle, reading.processors, reading.used, reading.quota) == (8.0, 2, 0.0, math.inf)


def test_a_quota_is_read(stat: Path, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    reading = read_processors(stat, tmp_path)
    assert (reading.used, reading.quota) == (2.5, 1.5)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert read_processors(stat, tmp_path).quota == math.inf


@pytest.mark.parametrize("content", [None, "", "cpu0 1 2\n", "cpu0 a b c d e f\n"])
def test_where_nobody_knows_they_are_idle(stat: Path, tmp_path: Path, content: str | None) -> None:
    if content is None:
        stat.unlink()
    else:
        stat.write_text(content)
    reading = read_processors(stat, tmp_path)
    assert idle_seconds(reading, reading) == math.inf


def test_the_machine_or_the_quota_leaves_less() -> None:
    before = Reading(10.0, 5.0)
    assert idle_seconds(before, Reading(12.0, 8.0)) == 3.0
    before = Reading(10.0, 5.0, used=1.0, quota=1.5)
    assert idle_seconds(before, Reading(12.0, 8.0, used=3.0, quota=1.5)) == 1.0
    assert idle_seconds(before, Reading(12.0, 5.5, used=1.0, quota=1.5)) == 0.5
    assert idle_seconds(before, Reading(12.0, 8.0, used=4.5, quota=1.5)) == 0.0


def test_the_processors_or_the_quota_can_be_used() -> None:
    assert usable_seconds(Reading(10.0, 0.0, 4), Reading(12.0, 0.0, 4)) == 8.0
    assert usable_seconds(Reading(10.0, 0.0, 4, quota=1.5), Reading(12.0, 0.0, 4, quota=1.5)) == 3.0


def test_the_kernel_is_understood() -> None:
    before = read_processors()
    after = read_processors()
    assert 0.0 < before.idle <= after.idle < math.inf
