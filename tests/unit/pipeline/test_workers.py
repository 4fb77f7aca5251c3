"""How many workers there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.pipeline.workers import WORKER_BYTES, choose_workers, free_memory, usable_cores, worker_count

GIB = 1 << 30
TOLD = "; [transfer] workers would say otherwise"
SHORT = "all may take a quarter of the {} MiB of free memory, and each takes up to 104; 16 cores"


@pytest.mark.parametrize(
    ("configured", "cores", "free", "count", "reason"),
    [
        (0, 1, 8 * GIB, 2, "at least two, on 1 core" + TOLD),
        (0, 2, 8 * GIB, 2, "one for each core, on 2 cores" + TOLD),
        (0, 5, 8 * GIB, 5, "one for each core, on 5 cores" + TOLD),
        (0, 8, 8 * GIB, 8, "one for each core, on 8 cores" + TOLD),
        (0, 16, 8 * GIB, 8, "at most eight, on 16 cores" + TOLD),
        (0, 16, 4 * 3 * WORKER_BYTES, 3, SHORT.format(1248) + TOLD),
        (0, 16, GIB // 10, 1, SHORT.format(102) + TOLD),
        (0, 16, 0, 8, "at most eight, on 16 cores" + TOLD),
        (1, 16, 8 * GIB, 1, "[transfer] workers = 1"),
        (100, 2, 0, 100, "[transfer] workers = 100"),
    ],
)
def test_the_number_follows_from_cores_and_memory(
    configured: int, cores: int, free: int, count: int, reason: str
) -> None:
    workers = choose_workers(configured, cores, free)
    assert (workers.count, workers.reason) == (count, reason)


def test_this_machine() -> None:
    assert 0 < free_memory() < 1 << 50
    assert usable_cores() >= 1
    assert worker_count(5) == 5
    assert 1 <= worker_count(0) <= 8


@pytest.mark.parametrize(
    ("quota", "cores"), [("50000 100000", 1), ("100000 100000", 1), ("10000000 100000", None), ("max 100000", None)]
)
def test_a_quota_counts_as_cores(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores(tmp_path) == (cores or usable_cores(tmp_path / "none"))


def test_a_limit_of_memory_counts_without_what_can_be_reclaimed(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == pytest.approx(free_memory(tmp_path / "none"), rel=0.2)
    (tmp_path / "memory.max").write_text("10000000\n")
    (tmp_path / "memory.current").write_text("9000000\n")
    (tmp_path / "memory.stat").write_text("anon 4000000\nfile 5000000\nshmem 1000000\n")
    assert free_memory(tmp_path) == 5_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 5_000_000
