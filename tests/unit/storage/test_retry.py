"""How long an action is tried."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ObjectNotFoundError, StorageUnavailableError
from agent.storage.retry import LONGEST_DELAY, RetryPolicy


@given(st.floats(0.0, 1e6), st.integers(1, 10**6))
def test_delays_stay_within_bounds(seconds: float, attempts: int) -> None:
    delay = RetryPolicy(seconds).delay(attempts)
    assert 0.0 <= delay <= min(LONGEST_DELAY, seconds)


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
