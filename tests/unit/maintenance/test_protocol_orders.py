"""The protocol between prunes and snapshots, tried in thousands of orders of events: no listed snapshot ever lacks a
chunk, whoever is stopped for however long, or killed, at any request to the store.
"""

from __future__ import annotations

import shutil
import tempfile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeadlinePassedError, SnapshotNotFoundError, StorageUnavailableError
from tests.support.interleaving import KilledError
from tests.support.pipelines import memory_folder
from tests.support.protocol_world import (
    GRACE,
    World,
)

ALLOWED = (KilledError, DeadlinePassedError, StorageUnavailableError, SnapshotNotFoundError)
"""How an actor may end, besides well: it was killed, or held up for too long; or what it deletes was deleted."""


class Starts(msgspec.Struct, frozen=True):
    """Somebody begins: a snapshot of some contents, a prune, or a delete of the n-th snapshot."""

    kind: str
    contents: tuple[int, ...] = ()
    which: int = 0
    finds: bool = False


class Steps(msgspec.Struct, frozen=True):
    """One of those at work does so many requests, the first after a pause."""

    who: int
    count: int
    pause: float


class Dies(msgspec.Struct, frozen=True):
    """One of those at work is killed."""

    who: int


Move = Starts | Steps | Dies

QUARTER = GRACE.seconds // 4
PAUSES = st.sampled_from([0.0, 0.0, 0.0, 1.0, 3.0, QUARTER + 1, 2 * QUARTER + 1, 4 * QUARTER + 2, 5 * QUARTER])
MOVES = st.one_of(
    st.builds(
        Starts,
        st.just("snapshot"),
        st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True).map(tuple),
        finds=st.booleans(),
    ),
    st.builds(Starts, st.just("prune")),
    st.builds(Starts, st.just("delete"), which=st.integers(0, 2)),
    # Weighted: most of what happens is that somebody goes on, often to the end.
    *[st.builds(Steps, st.integers(0, 5), st.integers(1, 12), PAUSES)] * 3,
    *[st.builds(Steps, st.integers(0, 5), st.just(1000), PAUSES)] * 3,
    st.builds(Dies, st.integers(0, 5)),
)


def play(world: World, moves: list[Move]) -> None:
    """Does what the moves say, lets everybody come to an end, and checks how they ended."""
    for move in moves:
        if isinstance(move, Starts):
            work = {"snapshot": world.snapshot(list(move.contents), move.finds), "prune": world.prune()}
            world.add(move.kind, work.get(move.kind) or world.delete(move.which))
            continue
        at_work = [actor for actor in world.actors if not actor.is_done]
        if not at_work:
            world.objects.now += move.pause if isinstance(move, Steps) else 0
            continue
        actor = at_work[move.who % len(at_work)]
        if isinstance(move, Dies):
            actor.kill()
            continue
        for number in range(move.count):
            if actor.is_done:
                break
            world.step(actor, 0.0 if number else move.pause)
    world.finish()
    for actor in world.actors:
        assert actor.error is None or isinstance(actor.error, ALLOWED), world.story(f"{actor.name}: {actor.error!r}")


@pytest.mark.usefixtures("virtual_time")
@settings(max_examples=200, deadline=None)
@given(st.lists(MOVES, min_size=5, max_size=40))
def test_in_any_order_of_events(moves: list[Move]) -> None:
    folder = tempfile.mkdtemp(dir=memory_folder())
    world = World(folder)
    try:
        play(world, moves)
    finally:
        world.close()
        shutil.rmtree(folder)
