"""Bounds how much is read in a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.pipeline.crew import POLL_SECONDS

BURST_SECONDS = 1.0
"""What was not used for so long may be made up for; more would be a rush after every pause."""


class Pace:
    """Lets so many bytes a second through. For one thread.

    Args:
        bytes_per_second: 0 for no limit.
        check: called while it waits; may raise to stop.
        clock: seconds that never go back.
        sleep: waits.
    """

    def __init__(
        self,
        bytes_per_second: int,
        check: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._check = check
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    def take(self, size: int) -> None:
        """Returns once ``size`` bytes more may be read."""
        if not self._rate:
            return
        while (left := self._free_at - self._clock()) > 0:
            self._check()
            self._sleep(min(left, POLL_SECONDS))
        self._free_at = max(self._free_at, self._clock() - BURST_SECONDS) + size / self._rate
