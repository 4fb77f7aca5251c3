"""Compares two engines that move chunks side by side. Pure: counts and times (seconds of any clock) are given."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agent.storage.choice import preferred

MIB = 1 << 20

WARM_BYTES = 16 * MIB
"""What each engine moves before anything counts: starting a process and opening connections is over by then."""

CLEAR_BYTES = 64 * MIB
CLEAR_RATIO = 2.0
CLEAR_SECONDS = 0.2
"""Once both together have moved so much in so much time, one that is so many times as fast has won."""

ENOUGH_BYTES = 384 * MIB
ENOUGH_SECONDS = 0.5
"""Once both together have moved so much in so much time, the faster has won."""

DEAD_BYTES = 256 * MIB
DEAD_SECONDS = 3.0
"""One that is not warm when it has had so much time, and the other has moved so much, has lost."""

MOST_BYTES = 2048 * MIB
"""Once both together have moved so much, there is a winner, however little of it was side by side."""


class Verdict(msgspec.Struct, frozen=True):
    """Which engine won, and how many bytes a second each moved; no speeds if they could not be compared."""

    winner: str
    speeds: Mapping[str, float]


class _Side:
    """One engine's part: ``objects`` on their way now, bytes ``moved`` in all, and ``together``, beside the other."""

    def __init__(self, moved: int) -> None:
        self.objects = 0
        self.first_began: float | None = None
        self.start = self.moved = moved
        self.together = 0

    @property
    def gained(self) -> int:
        return self.moved - self.start


class Trial:
    """A comparison under the same conditions: only time counts in which both engines have something to move.

    Args:
        moved: bytes that each engine has moved so far, those of unfinished objects among them.
    """

    def __init__(self, moved: Mapping[str, int]) -> None:
        self._sides = {engine: _Side(count) for engine, count in moved.items()}
        self._seconds = 0.0
        self._now = 0.0
        self.verdict: Verdict | None = None
        """The outcome, once there is one."""

    def begin(self, engine: str, now: float, moved: Mapping[str, int]) -> None:
        """Notes that an engine begins to move an object."""
        self._advance(now, moved)
        side = self._sides[engine]
        side.objects += 1
        if side.first_began is None:
            side.first_began = now

    def end(self, engine: str, now: float, moved: Mapping[str, int]) -> None:
        """Notes that an engine is done with an object that it began to move during the trial."""
        self._advance(now, moved)
        self._sides[engine].objects -= 1
        if self.verdict is None:
            self.verdict = self._decide(now)

    def _advance(self, now: float, moved: Mapping[str, int]) -> None:
        counts = all(side.objects and side.gained >= WARM_BYTES for side in self._sides.values())
        for engine, side in self._sides.items():
            # An s5cmd that died is remembered as it was last looked at.
            gained = max(moved[engine] - side.moved, 0)
            side.moved += gained
            side.together += gained if counts else 0
        if counts:
            self._seconds += now - self._now
        self._now = now

    def _decide(self, now: float) -> Verdict | None:
        leader, last = sorted(self._sides, key=lambda engine: self._sides[engine].gained, reverse=True)
        if self._is_dead(last, now) and self._sides[leader].gained >= DEAD_BYTES:
            return Verdict(leader, {})
        is_late = sum(side.gained for side in self._sides.values()) >= MOST_BYTES
        if not self._seconds:
            return Verdict(leader, {}) if is_late else None
        speeds = {engine: side.together / self._seconds for engine, side in self._sides.items()}
        together = sum(side.together for side in self._sides.values())
        is_clear = max(speeds.values()) >= CLEAR_RATIO * min(speeds.values())
        decided = (
            is_late
            or (is_clear and together >= CLEAR_BYTES and self._seconds >= CLEAR_SECONDS)
            or (together >= ENOUGH_BYTES and self._seconds >= ENOUGH_SECONDS)
        )
        return Verdict(preferred(speeds), speeds) if decided else None

    def _is_dead(self, engine: str, now: float) -> bool:
        side = self._sides[engine]
        return side.gained < WARM_BYTES and side.first_began is not None and now - side.first_began >= DEAD_SECONDS
