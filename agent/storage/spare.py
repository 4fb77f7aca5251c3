"""Whether the machine has the processor time that comparing engines takes."""

from __future__ import annotations

from collections.abc import Callable

from agent.pipeline.processors import Reading, idle_seconds, read_processors, usable_seconds

LOOK_BYTES = 64 << 20
LOOK_SECONDS = 0.25
"""Over what one look goes at least."""

EXTRA_SECONDS = 0.8
"""Processor seconds a GB that s5cmd takes more than stream (1.1 to 1.7 against 0.35 to 0.9, measured on loopback)."""

IDLE_SHARE = 0.25
"""The processors' time that is idle where it is not they that hold an operation up.

Beside a store on the same two cores, as busy as can be, 0.1 to 0.2 were idle, mostly while disks were waited for.
"""


LOOKS = 2
"""In how many looks, one after the other, there must be enough: a store may stand still for half a second by itself."""


class SpareTime:
    """Looks at the processors while chunks move. Not for several threads at once.

    Args:
        read: what the processors are asked with.

    Attributes:
        is_short: there was too little in the last look.
    """

    def __init__(self, read: Callable[[], Reading] = read_processors) -> None:
        self._read = read
        self._last: Reading | None = None
        self._moved = 0
        self._next = 0.0
        self._enough = 0
        self.is_short = False

    def suffices(self, now: float, moved: int) -> bool:
        """Says whether s5cmd could move chunks faster, had it a part of them: not if its processor time is not there.

        Args:
            now: the time, in seconds of the monotonic clock.
            moved: bytes that were moved so far.
        """
        if self._last is not None and (now < self._next or moved - self._moved < LOOK_BYTES):
            return False
        before, moved_before = self._last, self._moved
        self._last, self._moved, self._next = self._read(), moved, now + LOOK_SECONDS
        if before is None:
            return False
        wanted = max(EXTRA_SECONDS * (moved - moved_before) / 1e9, IDLE_SHARE * usable_seconds(before, self._last))
        self.is_short = idle_seconds(before, self._last) < wanted
        self._enough = 0 if self.is_short else self._enough + 1
        return self._enough >= LOOKS
