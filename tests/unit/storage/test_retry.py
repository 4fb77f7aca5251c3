"""How long an action is tried."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ObjectNotFoundError, StorageUnavailableError
from agent.storage.retry import (
    ATTEMPTS_AMONG_PROGRESS,
    FIRST_DELAY,
    LONGEST_DELAY,
    LONGEST_WISH,
    PROGRESS_BYTES,
    Endurance,
    RetryPolicy,
)


@given(st.floats(0.0, 1e6), st.integers(1, 10**6), st.floats(0.0, 1e9))
def test_delays_stay_within_bounds(seconds: float, attempts: int, wish: float) -> None:
    delay = RetryPolicy(seconds).delay(attempts, wish)
    assert 0.0 <= delay - min(wish, LONGEST_WISH) <= min(LONGEST_DELAY, seconds) + 1e-6


def test_an_action_is_tried_until_it_succeeds() -> None:
    answers = [StorageUnavailableError("a"), StorageUnavailableError("b"), "done"]

    def action() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    assert RetryPolicy(30.0).call(action) == "done"


def test_the_last_error_is_raised_when_the_time_is_up() -> None:
    attempts = 0

    def action() -> None:
        nonlocal attempts
        attempts += 1
        raise StorageUnavailableError(f"attempt {attempts}")

    begin = time.monotonic()
    with pytest.raises(StorageUnavailableError) as caught:
        RetryPolicy(0.7).call(action)
    assert time.monotonic() - begin <= 30.0
    assert attempts > 1
    assert caught.value.message == f"attempt {attempts}"


def test_other_errors_are_not_tried_again() -> None:
    attempts = 0

    def action() -> None:
        nonlocal attempts
        attempts += 1
        raise ObjectNotFoundError("x")

    with pytest.raises(ObjectNotFoundError):
        RetryPolicy(30.0).call(action)
    assert attempts == 1


def test_endurance_ends_when_nothing_moves_for_its_time() -> None:
    endurance = Endurance(RetryPolicy(60.0))
    assert endurance.begin(100.0) == (10.0, 30.0)
    assert 0.0 < (endurance.failed(110.0, 0, 100.0, 0.0) or 0.0) < FIRST_DELAY * 2
    assert endurance.begin(155.0) == (5.0, 5.0)
    assert endurance.failed(159.9, 0, 155.0, 0.0) is None


def test_the_first_failure_counts_from_the_last_byte() -> None:
    endurance = Endurance(RetryPolicy(60.0))
    endurance.begin(0.0)
    assert endurance.failed(1000.0, 0, 990.0, 0.0) is not None
    endurance.begin(1001.0)
    assert endurance.failed(1051.0, 0, 1050.0, 0.0) is None


def test_progress_makes_it_begin_anew_and_at_once() -> None:
    endurance = Endurance(RetryPolicy(60.0))
    for number in range(1, 100):
        endurance.begin(100.0 * number)
        assert endurance.failed(100.0 * number + 99.0, number * PROGRESS_BYTES, 100.0 * number + 89.0, 0.0) == 0.0
    assert endurance.attempts == 99
    assert endurance.failed(10_060.0, 99 * PROGRESS_BYTES + 1, 10_060.0, 0.0) is None


def test_while_others_get_through_it_is_tried_more_often() -> None:
    endurance = Endurance(RetryPolicy(10.0))
    now = 0.0
    while True:
        endurance.begin(now)
        delay = endurance.failed(now + 1.0, 0, now, now)
        if delay is None:
            break
        now += 1.0 + delay
    assert endurance.attempts == ATTEMPTS_AMONG_PROGRESS


@pytest.mark.parametrize(("wish", "waited"), [(7.0, 7.0), (3600.0, LONGEST_WISH)])
def test_a_wish_to_wait_is_obeyed_within_bounds(wish: float, waited: float) -> None:
    endurance = Endurance(RetryPolicy(60.0))
    endurance.begin(0.0)
    delay = endurance.failed(1.0, 0, 0.0, 0.0, wish)
    assert delay is not None
    assert waited < delay <= waited + FIRST_DELAY


def test_a_wish_beyond_the_time_that_is_left_ends_an_action() -> None:
    attempts = 0

    def action() -> None:
        nonlocal attempts
        attempts += 1
        raise StorageUnavailableError("in an hour")

    with pytest.raises(StorageUnavailableError, match="in an hour"):
        RetryPolicy(LONGEST_WISH).call(action, lambda _: 3600.0)
    assert attempts == 1


def test_no_connection_is_given_up_at_once() -> None:
    endurance = Endurance(RetryPolicy(0.0))
    assert endurance.begin(5.0) == (1.0, 1.0)
    assert endurance.failed(6.0, 0, 5.0, 0.0) is None
