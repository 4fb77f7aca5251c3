"""Whether a second engine could be faster, and there is processor time for it."""

from __future__ import annotations

import pytest

from agent.pipeline.processors import Reading
from agent.storage.spare import (
    EXTRA_SECONDS,
    IDLE_SHARE,
    LOOK_BYTES,
    LOOK_SECONDS,
    OWN_SHARE,
    Outlook,
    Progress,
    SpareTime,
)

GB = 10**9
BUSY, HELD_UP, WORTH_A_TRIAL = Outlook.BUSY, Outlook.HELD_UP, Outlook.WORTH_A_TRIAL


def looks(
    *steps: tuple[float, int, float], own: float = 1.0, waits: int = 1, processors: int = 1
) -> list[Outlook | None]:
    """Looks at some (time, bytes moved, idle processor seconds up to then); returns the answers.

    Args:
        steps: the looks.
        own: processor seconds that stream takes each second.
        waits: how often there was no room before each look.
        processors: how many there are.
    """
    readings = iter([Reading(time, idle, processors) for time, _, idle in steps])
    spare = SpareTime(lambda: next(readings))
    return [
        spare.look(Progress(time, moved, own * time, waits * number)) for number, (time, moved, _) in enumerate(steps)
    ]


@pytest.mark.parametrize(("share", "found"), [(0.9, BUSY), (1.1, WORTH_A_TRIAL)])
def test_what_s5cmd_takes_more_must_be_idle(share: float, found: Outlook) -> None:
    idle = share * EXTRA_SECONDS
    assert looks((0.0, 0, 5.0), (1.0, GB, 5.0 + idle), (2.0, 2 * GB, 5.0 + 2 * idle)) == [None, None, found]


@pytest.mark.parametrize(("share", "found"), [(0.9, BUSY), (1.1, WORTH_A_TRIAL)])
def test_a_part_of_the_processors_must_be_idle_however_little_is_moved(share: float, found: Outlook) -> None:
    steps = [(10.0 * number, number * LOOK_BYTES, number * share * IDLE_SHARE * 80) for number in range(3)]
    assert looks(*steps, processors=8) == [None, None, found]


IDLE = [(float(number), number * GB, number * 2.0) for number in range(4)]


@pytest.mark.parametrize(("share", "found"), [(0.9, HELD_UP), (1.1, WORTH_A_TRIAL)])
def test_a_stream_that_waits_for_the_network_needs_no_help(share: float, found: Outlook) -> None:
    assert looks(*IDLE, own=share * OWN_SHARE) == [None, None, found, found]


def test_a_stream_that_nobody_waits_for_is_not_what_holds_up() -> None:
    assert looks(*IDLE, own=0.0, waits=0) == [None] * 4


def test_each_look_is_at_what_was_since_the_last_one() -> None:
    busy_then_idle = (0.0, 0, 0.0), (1.0, GB, 0.1), (2.0, 2 * GB, 2.0), (3.0, 3 * GB, 4.0)
    assert looks(*busy_then_idle) == [None, None, None, WORTH_A_TRIAL]
    idle_then_busy = (0.0, 0, 0.0), (1.0, GB // 2, 0.5), (2.0, GB, 0.6)
    assert looks(*idle_then_busy) == [None, None, None]


def test_a_store_that_stands_still_for_a_moment_leaves_no_time() -> None:
    stands_still_now_and_then = [(float(second), second * GB, (second + 1) // 2 * 1.5) for second in range(20)]
    assert looks(*stands_still_now_and_then) == [None] * 20


@pytest.mark.parametrize(("seconds", "moved"), [(LOOK_SECONDS * 0.9, GB), (10.0, LOOK_BYTES - 1)])
def test_too_short_a_look_says_nothing(seconds: float, moved: int) -> None:
    readings = iter([Reading(0.0, 0.0)])
    spare = SpareTime(lambda: next(readings))
    assert spare.look(Progress(0.0, 0, 0.0, 0)) is None
    assert spare.look(Progress(seconds, moved, 0.0, 0)) is None
    assert spare.last is None


def test_it_says_what_the_last_look_found() -> None:
    readings = iter([Reading(0.0, 0.0), Reading(1.0, 0.1), Reading(2.0, 4.0)])
    spare = SpareTime(lambda: next(readings))
    told = []
    for second in range(3):
        spare.look(Progress(float(second), second * GB, float(second), 0))
        told.append(spare.last)
    assert told == [None, BUSY, WORTH_A_TRIAL]
