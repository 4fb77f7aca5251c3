"""The rate limit, with a clock that only moves when somebody waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import CancelledError
from agent.maintenance.pace import BURST_SECONDS, Pace


class Clock:
    """Seconds that pass while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def nothing() -> None:
    pass


@given(st.integers(1, 10**9), st.lists(st.tuples(st.integers(1, 64 << 20), st.floats(0, 5)), min_size=1, max_size=20))
def test_no_more_than_the_rate_is_let_through(rate: int, takes: list[tuple[int, float]]) -> None:
    clock = Clock()
    # Ten thousand waits are the most that a test should take.
    if sum(size for size, _ in takes) / rate > 1000:
        return
    pace = Pace(rate, nothing, lambda: clock.now, clock.sleep)
    let_through = 0
    for size, pause in takes:
        clock.now += pause
        pace.take(size)
        # What was let through before the last one fits into the time and one burst.
        assert let_through <= rate * (clock.now - 100.0 + BURST_SECONDS) * (1 + 1e-9)
        let_through += size


def test_the_rate_is_reached() -> None:
    clock = Clock()
    pace = Pace(1000, nothing, lambda: clock.now, clock.sleep)
    for _ in range(100):
        pace.take(500)
    assert clock.now == pytest.approx(100.0 + 50.0, abs=1.5)


def test_without_a_limit_nothing_waits() -> None:
    clock = Clock()
    pace = Pace(0, nothing, lambda: clock.now, clock.sleep)
    for _ in range(100):
        pace.take(1 << 40)
    assert clock.now == 100.0


def test_a_wait_can_be_cancelled() -> None:
    clock = Clock()

    def check() -> None:
        if clock.now > 101.0:
            raise CancelledError("enough")

    pace = Pace(1, check, lambda: clock.now, clock.sleep)
    pace.take(1000)
    with pytest.raises(CancelledError):
        pace.take(1)
    assert clock.now < 102.0
