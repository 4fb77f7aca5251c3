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

STALL_SECONDS = 10.0
"""How long a connection may move nothing before it is cut."""

ANSWER_SECONDS = 30.0
"""How long a store may take to confirm an object that it has got."""

SHORTEST_SECONDS = 1.0
"""No connection is given up sooner."""

PROGRESS_BYTES = 64 << 10
"""Bytes gained that make a failure an interruption of something that works."""

ATTEMPTS_AMONG_PROGRESS = 20
"""How often one object is tried while others get through."""

LONGEST_WISH = 30.0
"""The most seconds that a store's Retry-After is obeyed."""

_T = TypeVar("_T")


def _no_wish(_: StorageUnavailableError) -> float:
    return 0.0


class RetryPolicy(msgspec.Struct, frozen=True):
    """Tries go on for ``seconds`` after the first failure."""

    seconds: float

    def delay(self, attempts: int, wish: float = 0.0) -> float:
        """Returns the seconds to wait after so many failed attempts.

        Args:
            attempts: how many failed.
            wish: seconds that the store asks to wait; those who were asked at once do not come back at once.
        """
        longest = min(FIRST_DELAY * 2.0 ** min(attempts - 1, 16), LONGEST_DELAY)
        return min(wish, LONGEST_WISH) + min(longest, self.seconds) * random.uniform(0.5, 1.0)  # noqa: S311

    def call(self, action: Callable[[], _T], wish: Callable[[StorageUnavailableError], float] = _no_wish) -> _T:
        """Runs ``action`` until it does not raise StorageUnavailableError, or the time is up.

        Args:
            action: what to do.
            wish: tells from an error how many seconds the store asks to wait.
        """
        deadline: float | None = None
        attempts = 0
        while True:
            try:
                return action()
            except StorageUnavailableError as error:
                attempts += 1
                deadline = deadline or time.monotonic() + self.seconds
                delay = self.delay(attempts, wish(error))
                if time.monotonic() + delay >= deadline:
                    raise
                time.sleep(delay)


class Endurance:
    """How long one transfer is tried: until nothing of it has moved for the policy's time.

    While others get through, a transfer that is turned away again and again is given ``ATTEMPTS_AMONG_PROGRESS``.
    All times are ``time.monotonic``.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failing_since: float | None = None
        self._failures = 0
        self._moved = 0
        self.attempts = 0

    def begin(self, now: float) -> tuple[float, float]:
        """Begins an attempt; returns how many seconds a connection may be silent, and how many before an answer."""
        self.attempts += 1
        left = self._policy.seconds
        if self._failing_since is not None:
            left = max(self._failing_since + left - now, 0.0)
        # Half of the time at most, so that a connection that is silent leaves time for another.
        longest = max(min(left, self._policy.seconds / 2), SHORTEST_SECONDS)
        return min(STALL_SECONDS, longest), min(ANSWER_SECONDS, longest)

    def failed(self, now: float, moved: int, last_moved: float, others_moved: float, wish: float = 0.0) -> float | None:
        """Ends an attempt that failed; returns the seconds until the next one, ``None`` to give up.

        Args:
            now: the time.
            moved: bytes that need not be moved again.
            last_moved: when the last byte moved in this attempt.
            others_moved: when another transfer with this store last got through.
            wish: seconds that the store asks to wait.
        """
        has_progress = moved - self._moved >= PROGRESS_BYTES
        if has_progress or self._failing_since is None:
            self._failing_since = last_moved
            self._failures = 0
            self._moved = moved
        self._failures += 1
        is_interruption = has_progress and self._failures == 1
        delay = 0.0 if is_interruption and not wish else self._policy.delay(self._failures, wish)
        end = now + delay - self._policy.seconds
        if end <= self._failing_since:
            return delay
        is_gone = end > others_moved
        return None if is_gone or self.attempts >= ATTEMPTS_AMONG_PROGRESS else delay
