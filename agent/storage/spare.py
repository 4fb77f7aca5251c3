"""Whether another engine could be faster, and the machine has the processor time to find out."""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

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


OWN_SHARE = 0.5
"""What stream's threads take of one processor, if it is stream that holds an operation up: they share a lock.

Below, the network does, over which no engine gets more. At 100 MB/s they take 0.05 to 0.1, or 0.15 over https.
"""

LOOKS = 2
"""In how many looks, one after the other, there must be enough: a store may stand still for half a second by itself."""


class Outlook(enum.Enum):
    """What a second engine could do for an operation."""

    BUSY = enum.auto()
    """The processors have no time for it."""

    HELD_UP = enum.auto()
    """Stream is waited for, and waits itself: for a network over which no engine gets more, or for a disk."""

    WORTH_A_TRIAL = enum.auto()
    """Stream is busy, and there is time for another one."""


class Progress(msgspec.Struct, frozen=True):
    """How far stream is at one moment.

    Attributes:
        time: seconds of the monotonic clock.
        moved: bytes that were moved so far.
        processor_seconds: what its threads have taken so far.
        waits: how often it had no room for what came next.
    """

    time: float
    moved: int
    processor_seconds: float
    waits: int


class SpareTime:
    """Looks at the processors and at stream while chunks move. Not for several threads at once.

    Args:
        read: what the processors are asked with.

    Attributes:
        last: what the last look found, if it was one thing.
    """

    def __init__(self, read: Callable[[], Reading] = read_processors) -> None:
        self._read = read
        self._before: tuple[Progress, Reading] | None = None
        self._alike = 0
        self.last: Outlook | None = None

    def look(self, now: Progress) -> Outlook | None:
        """Returns what several looks, one after the other, have found; ``None`` while they differ or are too few."""
        if self._before is not None:
            progress, _ = self._before
            if now.time < progress.time + LOOK_SECONDS or now.moved - progress.moved < LOOK_BYTES:
                return None
        before, after = self._before, (now, self._read())
        self._before = after
        if before is None:
            return None
        found = _outlook(*before, *after)
        self._alike = self._alike + 1 if found is self.last else 1
        self.last = found
        return found if self._alike >= LOOKS else None


def _outlook(start: Progress, before: Reading, end: Progress, after: Reading) -> Outlook | None:
    wanted = max(EXTRA_SECONDS * (end.moved - start.moved) / 1e9, IDLE_SHARE * usable_seconds(before, after))
    if idle_seconds(before, after) < wanted:
        return Outlook.BUSY
    if end.processor_seconds - start.processor_seconds >= OWN_SHARE * (end.time - start.time):
        return Outlook.WORTH_A_TRIAL
    return Outlook.HELD_UP if end.waits > start.waits else None
