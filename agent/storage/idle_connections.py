"""How many connections that idle for want of room may send what needs none: as many as make uploads faster."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from agent.pipeline.processors import Reading, idle_seconds, read_processors, usable_seconds
from agent.storage.spare import IDLE_SHARE

ON_WAY_SECONDS = 30.0
"""No more is on its way than is sent in so much time: a machine that vanishes loses no more than that."""

SETTLE_SECONDS = 1.0
"""How long a new connection is not judged: at first the buffers on the way take whatever comes."""

LOOK_SECONDS = 0.25
MEASURE_SECONDS = 0.5
LONGEST_SECONDS = 2.0
"""How often bytes and processors are looked at, and over how much time at least and at most a speed is told."""

FACTOR = 2
"""So many times as many uploads are tried next."""

KEPT = 0.65
"""What each of them must keep of its speed when there are so many times as many: together they gain a third then."""

MORE = 1.25
"""So many times as many are needed to tell; with fewer, the speed is only noted."""

REST_SECONDS = 20.0
"""After how long more are tried again; twice as long after each time that it was in vain."""


class Load(msgspec.Struct, frozen=True):
    """What an engine has to do at one moment.

    Attributes:
        uploads: objects on their way, or about to be.
        idle_connections: connections without one.
        on_way: their bytes.
        moved: bytes that were moved so far.
    """

    uploads: int
    idle_connections: int
    on_way: int
    moved: int


class _Look(msgspec.Struct, frozen=True):
    reading: Reading
    moved: int


class _Noted(msgspec.Struct, frozen=True):
    """How many uploads there were, and the bytes a second of each."""

    uploads: int
    speed: float


class IdleConnections:
    """Finds out, while somebody waits for room, whether more uploads at once would be faster. For any thread.

    A store may be slow over each connection or as a whole, and only trying tells. What is sent without room is read and
    hashed twice, so it also takes processors that have nothing else to do.

    Args:
        load: tells what the engine has to do.
        read: what the processors are asked with.
        clock: seconds of the monotonic clock.
    """

    def __init__(
        self,
        load: Callable[[], Load],
        read: Callable[[], Reading] = read_processors,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._looks: deque[_Look] = deque()
        self._judged_from = 0.0
        self._rest_seconds = REST_SECONDS
        self._speed = 0.0
        self._noted: _Noted | None = None
        self._proven = 0
        self._most = self._highest = 0

    def suffice(self, size: int) -> bool:
        """Says whether another object of ``size`` bytes shall be sent now."""
        load = self._load()
        with self._lock:
            now = self._clock()
            if now >= self._judged_from:
                self._measure(now, load)
            is_soon_sent = load.on_way + size <= self._speed * ON_WAY_SECONDS
            if load.uploads >= self._most or not load.idle_connections or not is_soon_sent:
                return False
            if load.uploads >= self._highest:
                self._highest = load.uploads + 1
                self._looks.clear()
                self._judged_from = now + SETTLE_SECONDS
            return True

    def _measure(self, now: float, load: Load) -> None:
        first, last = self._look(now, load)
        seconds = last.reading.time - first.reading.time
        if seconds < MEASURE_SECONDS:
            return
        self._looks.clear()
        self._speed = (last.moved - first.moved) / seconds
        if idle_seconds(first.reading, last.reading) < IDLE_SHARE * usable_seconds(first.reading, last.reading):
            self._most, self._proven, self._noted = 0, 0, None
        else:
            self._judge(now, _Noted(load.uploads, self._speed / max(load.uploads, 1)))

    def _judge(self, now: float, found: _Noted) -> None:
        """Allows more uploads, or as many as were worth it."""
        before, self._highest = self._noted, found.uploads
        if not found.speed:
            self._noted = None  # a store that stands still for a moment says nothing of what comes
            return
        has_more = before is not None and found.uploads >= MORE * before.uploads
        if before is not None and has_more and found.speed < KEPT * before.speed:
            self._most, self._noted = self._proven, None
            self._judged_from = now + self._rest_seconds
            self._rest_seconds *= 2
            return
        if has_more:
            self._proven = max(self._proven, found.uploads)
        self._noted = found
        self._most = max(FACTOR * found.uploads, self._proven)

    def _look(self, now: float, load: Load) -> tuple[_Look, _Look]:
        """Returns the first and the last of the looks that count."""
        looks = self._looks
        if not looks or now - looks[-1].reading.time >= LOOK_SECONDS:
            looks.append(_Look(self._read(), load.moved))
        while looks[-1].reading.time - looks[0].reading.time > LONGEST_SECONDS:
            looks.popleft()
        return looks[0], looks[-1]
