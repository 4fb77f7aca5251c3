"""The comparison of two engines, in simulated time."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.storage.trial import (
    DEAD_BYTES,
    DEAD_SECONDS,
    ENOUGH_BYTES,
    ENOUGH_SECONDS,
    MIB,
    MOST_BYTES,
    WARM_BYTES,
    Trial,
    Verdict,
)

S5CMD, STREAM = "s5cmd", "stream"
BUDGET = 224 * MIB


class Engine:
    """An engine that moves ``speed`` bytes a second from its ``start`` on.

    Its objects share the speed, or else each waits for the one before it.
    """

    def __init__(
        self, name: str, speed: float, *, start: float = 0.0, shares: bool = False, jitter: float = 0.0
    ) -> None:
        self.name = name
        self.start = start
        self.moved = 0.0
        self.speed = speed
        self._shares = shares
        self._jitter = jitter
        self._left: deque[float] = deque()

    @property
    def pending(self) -> float:
        return sum(self._left)

    def add(self, size: int) -> None:
        self._left.append(float(size))

    def work(self, now: float, seconds: float, chance: random.Random) -> int:
        """Works for some seconds; returns how many objects that finishes."""
        room = self.speed * seconds * (1 + chance.uniform(-self._jitter, self._jitter)) if now >= self.start else 0.0
        finished = 0
        if self._shares and self._left:
            share = room / len(self._left)
            self.moved += sum(min(left, share) for left in self._left)
            before = len(self._left)
            self._left = deque(left - share for left in self._left if left > share)
            return before - len(self._left)
        while self._left and room > 0:
            done = min(room, self._left[0])
            room -= done
            self.moved += done
            self._left[0] -= done
            if self._left[0] <= 0:
                self._left.popleft()
                finished += 1
        return finished


def compete(engines: list[Engine], size: int, seed: int = 0) -> tuple[Verdict | None, int]:
    """Lets engines work until one has won; returns the verdict and the bytes moved by then."""
    chance = random.Random(seed)
    step = size / sum(engine.speed for engine in engines) / 4
    now = 0.0

    def counts() -> dict[str, int]:
        return {engine.name: int(engine.moved) for engine in engines}

    trial = Trial(counts())
    while trial.verdict is None and sum(counts().values()) < 2 * MOST_BYTES:
        while any(engine.pending + size <= BUDGET for engine in engines):
            engine = min(engines, key=lambda each: each.pending)
            engine.add(size)
            trial.begin(engine.name, now, counts())
        finished = [(engine.name, engine.work(now, step, chance)) for engine in engines]
        now += step
        for name, count in finished:
            for _ in range(count):
                trial.end(name, now, counts())
    return trial.verdict, sum(counts().values())


SPEEDS = st.floats(1e6, 2e9)
SIZES = st.sampled_from([4 * MIB, 16 * MIB, 64 * MIB])


@settings(deadline=None, max_examples=60)
@given(SPEEDS, st.floats(1.25, 20.0), st.booleans(), st.tuples(st.booleans(), st.booleans()), SIZES, st.integers())
def test_the_faster_wins_and_soon(
    speed: float, ratio: float, is_stream: bool, shares: tuple[bool, bool], size: int, seed: int
) -> None:
    stream, s5cmd = (speed * ratio, speed) if is_stream else (speed, speed * ratio)
    engines = [
        Engine(S5CMD, s5cmd, start=0.1, shares=shares[0], jitter=0.3),
        Engine(STREAM, stream, shares=shares[1], jitter=0.3),
    ]
    verdict, moved = compete(engines, size, seed)
    assert verdict is not None
    assert verdict.winner == (STREAM if is_stream else S5CMD)
    warm = WARM_BYTES * (1 + ratio) + 2 * BUDGET
    assert moved <= min(MOST_BYTES, warm + max(ENOUGH_BYTES, (s5cmd + stream) * (ENOUGH_SECONDS + 0.1))) + BUDGET


@settings(deadline=None, max_examples=60)
@given(SPEEDS, st.floats(0.2, 5.0), st.booleans(), SIZES, st.integers())
def test_the_speeds_are_those_of_the_engines(speed: float, ratio: float, shares: bool, size: int, seed: int) -> None:
    engines = [Engine(S5CMD, ratio * speed, shares=shares, jitter=0.1), Engine(STREAM, speed, jitter=0.1)]
    verdict, _ = compete(engines, size, seed)
    assert verdict is not None
    assert 0.85 < verdict.speeds[STREAM] / speed < 1.15
    assert 0.85 < verdict.speeds[S5CMD] / (ratio * speed) < 1.15


def test_of_two_that_are_as_fast_the_cheaper_wins() -> None:
    verdict, _ = compete([Engine(S5CMD, 1e8), Engine(STREAM, 1e8)], 16 * MIB)
    assert verdict is not None
    assert verdict.winner == STREAM


def test_one_that_does_nothing_has_lost_after_a_while() -> None:
    trial = Trial({S5CMD: 0, STREAM: 0})
    trial.begin(S5CMD, 0.0, {S5CMD: 0, STREAM: 0})
    steps = [(DEAD_SECONDS - 0.1, DEAD_BYTES - 1), (DEAD_SECONDS, DEAD_BYTES - 1), (DEAD_SECONDS, DEAD_BYTES)]
    for now, moved in steps:
        assert trial.verdict is None
        trial.begin(STREAM, now, {S5CMD: 0, STREAM: moved})
        trial.end(STREAM, now, {S5CMD: 0, STREAM: moved})
    assert trial.verdict == Verdict(STREAM, {})


def test_an_engine_that_was_not_asked_is_not_dead() -> None:
    trial = Trial({S5CMD: 0, STREAM: 0})
    trial.begin(STREAM, 0.0, {S5CMD: 0, STREAM: 0})
    trial.end(STREAM, 10 * DEAD_SECONDS, {S5CMD: 0, STREAM: DEAD_BYTES})
    assert trial.verdict is None


def test_only_work_at_the_same_time_counts() -> None:
    trial = Trial({S5CMD: 0, STREAM: 0})
    moved = {S5CMD: 0, STREAM: 0}
    for number in range(MOST_BYTES // (64 * MIB) - 1):
        engine = (S5CMD, STREAM)[number % 2]
        trial.begin(engine, float(number), moved)
        moved[engine] += 64 * MIB
        trial.end(engine, number + 0.5, moved)
        assert trial.verdict is None, "they never worked at the same time"


def test_a_count_that_goes_back_is_not_held_against_an_engine() -> None:
    trial = Trial({S5CMD: 0, STREAM: 0})
    for engine in (S5CMD, STREAM):
        trial.begin(engine, 0.0, {S5CMD: 20 * MIB, STREAM: 20 * MIB})
    for second in range(1, 20):
        back = 10 * MIB if second % 2 else 0
        trial.begin(STREAM, float(second), {S5CMD: second * 40 * MIB - back, STREAM: second * 10 * MIB})
        trial.end(STREAM, float(second), {S5CMD: second * 40 * MIB - back, STREAM: second * 10 * MIB})
    assert trial.verdict is not None
    assert trial.verdict.winner == S5CMD
