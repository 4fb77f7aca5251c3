"""Whether there is processor time for a second engine."""

from __future__ import annotations

import pytest

from agent.pipeline.processors import Reading
from agent.storage.spare import EXTRA_SECONDS, IDLE_SHARE, LOOK_BYTES, LOOK_SECONDS, SpareTime

GB = 10**9


def looks(*steps: tuple[float, int, float]) -> list[bool]:
    """Asks at some (time, bytes moved, idle processor seconds up to then); returns the answers."""
    readings = iter([Reading(time, idle) for time, _, idle in steps])
    spare = SpareTime(lambda: next(readings))
    return [spare.suffices(time, moved) for time, moved, _ in steps]


@pytest.mark.parametrize(("share", "suffices"), [(0.9, False), (1.1, True)])
def test_what_s5cmd_takes_more_must_be_idle(share: float, suffices: bool) -> None:
    idle = share * EXTRA_SECONDS
    assert looks((0.0, 0, 5.0), (1.0, GB, 5.0 + idle), (2.0, 2 * GB, 5.0 + 2 * idle)) == [False, False, suffices]


@pytest.mark.parametrize(("share", "suffices"), [(0.9, False), (1.1, True)])
def test_a_part_of_the_processors_must_be_idle_however_little_is_moved(share: float, suffices: bool) -> None:
    readings = iter([Reading(10.0 * number, number * share * IDLE_SHARE * 80, 8) for number in range(3)])
    spare = SpareTime(lambda: next(readings))
    assert [spare.suffices(10.0 * number, number * LOOK_BYTES) for number in range(3)] == [False, False, suffices]


def test_each_look_is_at_what_was_since_the_last_one() -> None:
    busy_then_idle = (0.0, 0, 0.0), (1.0, GB, 0.1), (2.0, 2 * GB, 2.0), (3.0, 3 * GB, 4.0)
    assert looks(*busy_then_idle) == [False, False, False, True]
    idle_then_busy = (0.0, 0, 0.0), (1.0, GB // 2, 0.1), (2.0, GB, 0.3)
    assert looks(*idle_then_busy) == [False, False, False]


def test_a_store_that_stands_still_for_a_moment_leaves_no_time() -> None:
    stands_still_now_and_then = [(float(second), second * GB, (second + 1) // 2 * 1.5) for second in range(20)]
    assert looks(*stands_still_now_and_then) == [False] * 20


@pytest.mark.parametrize(("seconds", "moved"), [(LOOK_SECONDS * 0.9, GB), (10.0, LOOK_BYTES - 1)])
def test_too_short_a_look_says_nothing(seconds: float, moved: int) -> None:
    readings = iter([Reading(0.0, 0.0)])
    spare = SpareTime(lambda: next(readings))
    assert not spare.suffices(0.0, 0)
    assert not spare.suffices(seconds, moved)
    assert not spare.is_short


def test_it_says_whether_there_was_too_little() -> None:
    readings = iter([Reading(0.0, 0.0), Reading(1.0, 0.1), Reading(2.0, 4.0)])
    spare = SpareTime(lambda: next(readings))
    told = []
    for second in range(3):
        spare.suffices(float(second), second * GB)
        told.append(spare.is_short)
    assert told == [False, True, False]
