"""The staging budget."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import CancelledError, PathNotFoundError, StagingFullError
from agent.storage.staging import MINIMUM_CHARGE, Budget, StagedFile, StagingArea
from tests.support.processes import wait_until

MIB = 1 << 20


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4 * MIB), st.lists(st.integers(0, 6 * MIB), min_size=1, max_size=60))
def test_the_budget_is_never_exceeded_and_nobody_waits_for_ever(capacity: int, sizes: list[int]) -> None:
    budget = Budget(capacity)
    lock = threading.Lock()
    held: list[int] = []

    def use(size: int) -> None:
        charge = budget.acquire(size)
        with lock:
            held.append(charge)
            assert len(held) == 1 or sum(held) <= capacity
            held.remove(charge)
        budget.release(charge)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(use, size) for size in sizes]:
            future.result(30.0)
    assert budget.used == 0


def test_tiny_objects_are_bounded_in_number() -> None:
    budget = Budget(4 * MINIMUM_CHARGE)
    charges = [budget.acquire(0) for _ in range(4)]
    assert budget.used == 4 * MINIMUM_CHARGE
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.acquire, 0)
        budget.release(charges[0])
        assert waiting.result(30.0) == MINIMUM_CHARGE


def test_who_asks_first_is_served_first() -> None:
    budget = Budget(MIB)
    first = budget.acquire(MIB // 2)
    order: list[str] = []

    def use(name: str, size: int) -> None:
        charge = budget.acquire(size)
        order.append(name)
        budget.release(charge)

    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(use, "large", MIB)
        wait_until(lambda: budget.waiting == 1, "the large one waits")
        small = pool.submit(use, "small", MIB // 4)
        wait_until(lambda: budget.waiting == 2, "the small one waits although it would fit")
        budget.release(first)
        large.result(30.0)
        small.result(30.0)
    assert order == ["large", "small"]


def test_abort_frees_who_waits() -> None:
    budget = Budget(MIB)
    budget.acquire(MIB)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.acquire, 1)
        wait_until(lambda: budget.waiting == 1, "it waits")
        budget.abort()
        with pytest.raises(CancelledError):
            waiting.result(30.0)
    with pytest.raises(CancelledError):
        budget.acquire(1)


def create(area: StagingArea, size: int) -> StagedFile:
    staged, file = area.create(size)
    file.close()
    return staged


def test_staged_files_are_private_and_unique(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path), MIB)
    files = [create(area, 0) for _ in range(10)]
    assert len({file.path for file in files}) == 10
    assert all(os.stat(file.path).st_mode & 0o777 == 0o600 for file in files)
    for file in files:
        file.release()
        file.release()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_beside_a_staged_file_are_removed(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path), MIB)
    one, two = create(area, 10), create(area, 10)
    Path(one.path + "12345").write_bytes(b"half")
    one.clear()
    assert [path.name for path in tmp_path.iterdir()] == [os.path.basename(two.path)]


def test_clear_empties_the_folder_and_the_budget(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path), MIB)
    file = create(area, MIB)
    Path(file.path + "12345").write_bytes(b"half")
    area.clear()
    assert list(tmp_path.iterdir()) == []
    create(area, MIB).release()
    Path(file.path).write_bytes(b"written again by a thread that did not know")
    file.release()
    assert list(tmp_path.iterdir()) == []


def test_what_can_never_fit_is_refused_by_numbers(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path), MIB)
    with pytest.raises(StagingFullError, match="1,152,921,504,606,846,976") as caught:
        create(area, 1 << 60)
    assert caught.value.metadata["needed_bytes"] == str(1 << 60)
    create(area, 1).release()


def test_a_missing_staging_folder_is_named(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path / "missing"), MIB)
    with pytest.raises(PathNotFoundError, match="missing"):
        create(area, 1)


def test_a_wider_budget_lets_in_who_waits() -> None:
    budget = Budget(MIB)
    budget.acquire(MIB)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.acquire, MIB)
        wait_until(lambda: budget.waiting == 1, "the budget is used up")
        budget.widen(MIB // 2)
        assert budget.waiting == 1
        budget.widen(2 * MIB)
        assert waiting.result(30.0) == MIB
