"""How long and how often an action on a store is tried."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent.errors import StorageUnavailableError

FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0
"""Seconds between two tries, doubled from the first to the longest, each with jitter of half of it."""

_T = TypeVar("_T")


class RetryPolicy(msgspec.Struct, frozen=True):
    """Tries go on for ``seconds`` after the first failure."""

    seconds: float

    def delay(self, attempts: int) -> float:
        """Returns the seconds to wait after so many failed attempts."""
        longest = min(FIRST_DELAY * 2.0 ** min(attempts - 1, 16), LONGEST_DELAY)
        return min(longest, self.seconds) * random.uniform(0.5, 1.0)  # noqa: S311

    def call(self, action: Callable[[], _T]) -> _T:
        """Runs ``action`` until it does not raise StorageUnavailableError, or the time is up."""
        deadline: float | None = None
        attempts = 0
        while True:
            try:
                return action()
            except StorageUnavailableError:
                attempts += 1
                deadline = deadline or time.monotonic() + self.seconds
                delay = self.delay(attempts)
                if time.monotonic() + delay >= deadline:
                    raise
                time.sleep(delay)
