"""More uploads at once than there is room for: as many as make a link faster, and no more than half a minute of it."""

from __future__ import annotations

import itertools

import pytest

from agent.pipeline.processors import Reading
from agent.storage.idle_connections import ON_WAY_SECONDS, REST_SECONDS, IdleConnections, Load
from agent.storage.spare import IDLE_SHARE

MB = 10**6
SIZE = 64 * MB
ROOMS = 4
STEP = 0.05


class Link:
    """A simulated store: four uploads have room and are always there, and one more is always offered.

    Args:
        each: MB/s that a connection gets at most.
        together: MB/s of all of them.
        idle: how much of two processors is idle.
        connections: how many there are.
    """

    def __init__(self, each: float, together: float = 1e9, idle: float = 0.9, connections: int = 64) -> None:
        self.each = each
        self.together = together
        self.idle = idle
        self.most = 0
        """The most uploads without room at once."""
        self.most_seconds = 0.0
        """The most seconds that all uploads on their way would have taken, whenever one without room began."""
        self._connections = connections
        self._now = self._idle_seconds = self._moved = 0.0
        self._left = [float(SIZE)] * ROOMS
        self._sent: list[float] = []
        self._asked = IdleConnections(self._load, self._read, lambda: self._now)

    @property
    def sending(self) -> int:
        """Uploads without room."""
        return len(self._sent)

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        for _ in range(round(seconds / STEP)):
            if self._asked.suffice(SIZE):
                self._sent.append(float(SIZE))
                self.most = max(self.most, self.sending)
                on_way = SIZE * (len(self._left) + len(self._sent))
                self.most_seconds = max(self.most_seconds, on_way / self._speed() / len(self._left + self._sent))
            self._pass()

    def _speed(self) -> float:
        return min(self.each, self.together / (ROOMS + self.sending)) * MB

    def _pass(self) -> None:
        moved = self._speed() * STEP
        self._now += STEP
        self._idle_seconds += self.idle * 2 * STEP
        self._moved += moved * (ROOMS + self.sending)
        self._left = [left - moved if left > moved else float(SIZE) for left in self._left]
        self._sent = [left - moved for left in self._sent if left > moved]

    def _load(self) -> Load:
        uploads = ROOMS + self.sending
        return Load(uploads, max(self._connections - uploads, 0), uploads * SIZE, int(self._moved))

    def _read(self) -> Reading:
        return Reading(self._now, self._idle_seconds, 2)


@pytest.mark.parametrize("each", [5.0, 10.0, 20.0])
def test_connections_that_are_slow_by_themselves_are_all_used(each: float) -> None:
    link = Link(each)
    link.run(40)
    assert ROOMS + link.most == 64


def test_no_more_are_used_than_there_are() -> None:
    link = Link(20.0, connections=6)
    link.run(40)
    assert ROOMS + link.most == 6


@pytest.mark.parametrize("together", [20.0, 100.0, 1000.0])
def test_a_link_that_is_full_gets_no_more_for_long(together: float) -> None:
    link = Link(1e9, together)
    link.run(4)
    assert link.most <= ROOMS
    link.most = 0
    link.run(REST_SECONDS - 5)
    assert link.most == 0


def test_it_is_tried_again_later_and_less_and_less_often() -> None:
    link = Link(1e9, 200.0)
    tries = []
    for second in range(300):
        before = link.sending
        link.run(1)
        if link.sending and not before:
            tries.append(second)
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert len(pauses) >= 2
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 1.5 * pauses[0]


def test_as_many_are_used_as_fill_a_link() -> None:
    link = Link(10.0, 200.0)
    link.run(18)
    assert 200 / 10 * 0.65 <= ROOMS + link.sending <= 200 / 10 * 2


@pytest.mark.parametrize(("each", "together"), [(0.5, 1e9), (3.0, 1e9), (1e9, 5.0), (10.0, 100.0)])
def test_no_more_is_on_its_way_than_half_a_minute_of_it(each: float, together: float) -> None:
    link = Link(each, together)
    link.run(120)
    assert link.most_seconds <= ON_WAY_SECONDS * 1.1


@pytest.mark.parametrize(("factor", "sends"), [(0.9, False), (1.1, True)])
def test_processors_must_have_time_for_it(factor: float, sends: bool) -> None:
    link = Link(20.0, idle=factor * IDLE_SHARE)
    link.run(20)
    assert bool(link.most) is sends


def test_a_store_that_stood_still_is_no_measure_of_what_comes() -> None:
    link = Link(0.0)
    link.run(3)
    link.each, link.together = 1e9, 200.0
    link.run(15)
    assert link.most <= ROOMS


def test_it_ends_when_processors_get_busy() -> None:
    link = Link(20.0)
    link.run(20)
    assert link.sending
    link.idle = 0.0
    link.run(20)
    assert not link.sending
