"""The protocol between prunes and snapshots, tried in thousands of orders of events: no listed snapshot ever lacks a
chunk, whoever is stopped for however long, or killed, at any request to the store.

The code is the real one of prunes and of a snapshot's lease and commit; the store is virtual, and so is time.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.model import Provider, StorageConfig
from agent.errors import DeadlinePassedError, SnapshotNotFoundError, StorageUnavailableError
from agent.maintenance.prune import Prune
from agent.maintenance.request import PruneRequest
from agent.maintenance.retention import Rules
from agent.pipeline.crew import Crew
from agent.pipeline.warnings import Warnings
from agent.repository import condemned, keys
from agent.repository.grace import Grace
from agent.repository.lease import take_lease
from agent.repository.manifest_reader import ManifestReader
from agent.repository.repository import Repository
from agent.snapshot import commit
from agent.snapshot.commit import Commit
from agent.snapshot.known import Known
from agent.storage.clock import read_clock
from tests.support import forging
from tests.support.interleaving import Actor, KilledError
from tests.support.pipelines import memory_folder
from tests.support.virtual_store import Objects, VirtualStore

GRACE = Grace(32)
CONTENTS = [bytes([number]) * 512 for number in range(4)]
CHUNKS = [forging.chunk(raw) for raw in CONTENTS]


class VirtualTime:
    """Stands for the module ``time`` where a snapshot waits: every wait is a turn of its actor."""

    def __init__(self, world: World, actor: Actor) -> None:
        self._world = world
        self._actor = actor

    def monotonic(self) -> float:
        return self._world.objects.now

    def sleep(self, _: float) -> None:
        self._actor.turn("sleep")


class _TimeOfThread(threading.local):
    now: VirtualTime

    def monotonic(self) -> float:
        return self.now.monotonic()

    def sleep(self, seconds: float) -> None:
        self.now.sleep(seconds)


class World:
    """One repository and those who work on it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        # An upload may be seen late by a quarter of the grace, and a delete be carried out late by its validity.
        self.objects = Objects(body_seconds=GRACE.delay, delete_seconds=GRACE.delete)
        self.actors: list[Actor] = []
        self._numbers = itertools.count()
        store = VirtualStore(self.objects)
        info = msgspec.structs.replace(Repository(store).ensure(), grace_seconds=GRACE.seconds)
        store.write(keys.REPOSITORY, msgspec.json.encode(info))

    def new_id(self) -> str:
        return f"20261123T110512Z-{next(self._numbers):08x}"

    def add(self, name: str, work: Callable[[Actor], None]) -> Actor:
        actor = Actor(f"{name}-{len(self.actors)}", work)
        self.actors.append(actor)
        actor.start()
        return actor

    def snapshot(self, contents: list[int], finds: bool = False) -> Callable[[Actor], None]:
        """Returns the work of a snapshot of these contents; it may find what an interrupted one has stored."""

        def work(actor: Actor) -> None:
            store = VirtualStore(self.objects, actor.turn)
            commit.time.now = VirtualTime(self, actor)  # type: ignore[attr-defined]
            repository = Repository(store)
            grace = repository.ensure().grace
            lease = take_lease(store, grace, read_clock(store))
            known = Known(repository, lease.condemned, Warnings())
            table = [CHUNKS[number] for number in contents]
            found = {keys.chunk_id(found.key) for found in store.list(keys.CHUNKS)} if finds else set()
            for number, chunk in zip(contents, table, strict=True):
                if known.size(chunk.id) is None and chunk.id not in found - lease.condemned.keys():
                    store.write(keys.chunk(chunk.id), forging.frame(CONTENTS[number]))
            snapshot_id = self.new_id()
            path = Path(self.folder, os.urandom(8).hex())
            entries = [forging.directory(b"")]
            forging.manifest(path, entries, table, snapshot_id=snapshot_id)
            crew = Crew(threading.Event())
            with crew.work():
                Commit(store, "", snapshot_id, grace, crew).run(str(path), table, lease)

        return work

    def prune(self, fails_after: int | None = None) -> Callable[[Actor], None]:
        """Returns the work of a prune; the store fails for good after so many requests."""

        def work(actor: Actor) -> None:
            request = PruneRequest(Rules(), (), (), False, "", StorageConfig(Provider.LOCAL, endpoint="/nowhere"))

            def turn(what: str) -> None:
                actor.turn(what)
                if fails_after is not None and len(actor.requests) > fails_after:
                    raise StorageUnavailableError(f"{what}: the store does not answer")

            Prune(request, Repository(VirtualStore(self.objects, turn)), lambda _: None, threading.Event()).run()

        return work

    def delete(self, which: int) -> Callable[[Actor], None]:
        """Returns the work of deleting a snapshot."""

        def work(actor: Actor) -> None:
            repository = Repository(VirtualStore(self.objects, actor.turn))
            ids = repository.snapshot_ids()
            if ids:
                repository.delete_snapshot(ids[which % len(ids)])

        return work

    # States that others have left behind.

    def store_chunk(self, number: int, age: int = 100 * GRACE.seconds) -> None:
        """Puts a chunk there that is so old."""
        self._put(keys.chunk(CHUNKS[number].id), forging.frame(CONTENTS[number]), age)

    def condemn(self, numbers: list[int], age: int) -> None:
        """Puts a record there that condemns chunks since then."""
        record_id = f"20261123T110512Z-{next(self._numbers):016x}"
        data = condemned.encode(CHUNKS[number].id for number in numbers)
        self._put(f"{condemned.CONDEMNED}{record_id}/chunks", data, age)

    def store_snapshot(self, numbers: list[int], deleted_age: int) -> str:
        """Puts a snapshot there, with the tombstone of a deletion that was interrupted then (0: with none)."""
        snapshot_id = self.new_id()
        path = Path(self.folder, os.urandom(8).hex())
        table = [CHUNKS[number] for number in numbers]
        data = forging.manifest(path, [forging.directory(b"")], table, snapshot_id=snapshot_id)
        self._put(keys.manifest(snapshot_id), data, 90 * GRACE.seconds)
        if deleted_age:
            self._put(keys.tombstone(snapshot_id), data, deleted_age)
        return snapshot_id

    def delete_snapshots(self) -> None:
        """Completes the deletions of all snapshots."""
        for key in self.objects.keys(keys.SNAPSHOTS):
            del self.objects.found[key]

    def snapshots(self) -> list[str]:
        """Returns the ids of all snapshots."""
        found = self.objects.keys(keys.SNAPSHOTS)
        return [key.split("/")[1] for key in found if key.endswith("/manifest")]

    def _put(self, key: str, data: bytes, age: int) -> None:
        self.objects.found[key] = data, int(self.objects.now) - age

    # What happens.

    def until(self, actor: Actor, request: str, *, or_end: bool = False) -> None:
        """Lets an actor go on until it is about to do a request that begins so, or to "the end"."""
        while not actor.is_done and not actor.pending.startswith(request):
            self.step(actor, 0.0)
        assert actor.is_done == (request == "the end") or or_end, self.story(f"{actor.name} does not {request}")

    def step(self, actor: Actor, seconds: float) -> None:
        """Lets time pass and then an actor do its next request; then every listed snapshot must be whole."""
        self.objects.now += seconds + 0.01
        actor.step()
        self.check()

    def check(self) -> None:
        for key in self.objects.keys(keys.SNAPSHOTS):
            if not key.endswith("/manifest"):
                continue
            data = self.objects.found[key][0]
            manifest = ManifestReader(lambda offset, length, data=data: data[offset : offset + length], data, len(data))  # type: ignore[misc]
            for chunk in manifest.chunks():
                assert keys.chunk(chunk.id) in self.objects.found, self.story(f"{key} lacks {chunk.id.hex()[:8]}")

    def story(self, what: str) -> str:
        return "\n".join([what, *(f"{actor.name}: {actor.requests}" for actor in self.actors)])

    def finish(self) -> None:
        """Lets everybody come to an end."""
        while not all(actor.is_done for actor in self.actors):
            for actor in self.actors:
                if not actor.is_done:
                    self.step(actor, 0.05)

    def close(self) -> None:
        for actor in self.actors:
            actor.kill()


ALLOWED = (KilledError, DeadlinePassedError, StorageUnavailableError, SnapshotNotFoundError)
"""How an actor may end, besides well: it was killed, or held up for too long; or what it deletes was deleted."""


@pytest.fixture(autouse=True, scope="module")
def _virtual_time() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "time", _TimeOfThread())
        yield


@pytest.fixture
def world() -> Iterator[World]:
    folder = tempfile.mkdtemp(dir=memory_folder())
    made = World(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


def chunk_key(number: int) -> str:
    return keys.chunk(CHUNKS[number].id)


def ended(world: World, actor: Actor) -> BaseException | None:
    """Lets an actor, and then all others, come to an end; returns how the first did."""
    world.until(actor, "the end")
    world.finish()
    return actor.error


def prune_twice(world: World, pause: float = GRACE.seconds + 3) -> None:
    """Condemns what nobody needs, and deletes it after the grace."""
    for _ in range(2):
        world.objects.now += pause
        prune = world.add("prune", world.prune())
        world.until(prune, "the end")
        assert prune.error is None, world.story("a prune failed")


def test_garbage_goes_in_two_phases(world: World) -> None:
    world.add("snapshot", world.snapshot([0, 1]))
    world.store_chunk(2, 0)
    world.finish()

    def chunks_after_prune(seconds: float) -> list[int]:
        world.objects.now += seconds
        prune = world.add("prune", world.prune())
        world.finish()
        assert prune.error is None
        return [number for number in range(4) if chunk_key(number) in world.objects.found]

    assert chunks_after_prune(GRACE.seconds - 10) == [0, 1, 2]
    assert world.objects.keys("condemned/") == []
    assert chunks_after_prune(20) == [0, 1, 2]
    assert len(world.objects.keys("condemned/")) == 1
    assert chunks_after_prune(GRACE.seconds - 10) == [0, 1, 2]
    assert chunks_after_prune(20) == [0, 1]
    assert len(world.objects.keys("condemned/")) == 2
    assert chunks_after_prune(GRACE.settle) == [0, 1]
    assert world.objects.keys("condemned/") == []
    assert world.objects.keys("clock/") == []


@pytest.mark.parametrize("place", ["list snapshots/", "write chunks/", "write snapshots/", "upload snapshots/"])
def test_a_snapshot_that_was_stopped_for_days_commits_nothing_that_was_pruned(world: World, place: str) -> None:
    snapshot = world.add("snapshot", world.snapshot([0, 1, 2]))
    world.until(snapshot, place)
    prune_twice(world)
    error = ended(world, snapshot)
    if place in ("list snapshots/", "write chunks/"):
        # Nothing had been uploaded that could have been pruned: it only needs another lease.
        assert error is None
        assert len(world.snapshots()) == 1
    else:
        assert isinstance(error, DeadlinePassedError)
        assert world.snapshots() == []


def test_a_manifest_that_is_seen_long_after_it_was_sent_is_in_time_all_the_same(world: World) -> None:
    world.store_chunk(0)
    # Reuses chunk 0 by a snapshot whose deletion was interrupted long ago, and goes on now.
    world.store_snapshot([0], GRACE.seconds * 2)
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "list snapshots/")
    world.step(snapshot, 0.0)
    world.until(snapshot, "upload snapshots/")
    world.delete_snapshots()
    first = world.add("prune", world.prune())
    world.until(first, "the end")
    world.objects.now += GRACE.lease - 1
    world.until(snapshot, "written snapshots/")
    world.objects.now += GRACE.delay - 1
    # The manifest is not seen yet, and this is the latest that it may be: the record must not be due.
    second = world.add("prune", world.prune())
    world.until(second, "the end")
    assert ended(world, snapshot) is None
    assert len(world.snapshots()) == 1


def test_a_long_snapshot_takes_another_lease(world: World) -> None:
    snapshot = world.add("snapshot", world.snapshot([0, 1]))
    world.until(snapshot, "upload snapshots/")
    world.objects.now += 10 * GRACE.seconds
    assert ended(world, snapshot) is None
    assert len(world.snapshots()) == 1


def test_a_long_snapshot_refreshes_what_was_condemned_meanwhile(world: World) -> None:
    snapshot = world.add("snapshot", world.snapshot([0, 1]))
    world.until(snapshot, "upload snapshots/")
    world.objects.now += GRACE.seconds + 3
    prune = world.add("prune", world.prune())
    world.until(prune, "the end")
    assert len(world.objects.keys("condemned/")) == 1
    world.until(snapshot, "the end")
    assert snapshot.error is None
    prune_twice(world)
    assert len(world.snapshots()) == 1


def test_what_was_refreshed_is_not_deleted_under_the_new_lease(world: World) -> None:
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "upload snapshots/")
    world.objects.now += GRACE.seconds + 3
    world.until(world.add("prune", world.prune()), "the end")
    world.objects.now += GRACE.seconds - 2
    world.until(snapshot, "write snapshots/")
    world.until(snapshot, "upload snapshots/")
    world.objects.now += 4
    prune = world.add("prune", world.prune())
    world.until(prune, "the end")
    assert prune.error is None
    assert any("done" in key for key in world.objects.keys("condemned/"))
    assert ended(world, snapshot) is None
    assert len(world.snapshots()) == 1


def test_a_delete_that_was_stopped_after_its_look_comes_too_late(world: World) -> None:
    world.store_chunk(0)
    world.condemn([0], GRACE.seconds * 2)
    prune = world.add("prune", world.prune())
    world.until(prune, "send delete chunks/")
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "the end")
    assert snapshot.error is None
    assert ended(world, prune) is None
    assert chunk_key(0) in world.objects.found


def test_what_was_uploaded_again_is_not_deleted(world: World) -> None:
    world.store_chunk(0)
    world.condemn([0], GRACE.seconds * 2)
    prune = world.add("prune", world.prune())
    world.until(prune, "head chunks/")
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "sleep")
    assert ended(world, prune) is None
    assert ended(world, snapshot) is None
    assert chunk_key(0) in world.objects.found


def test_a_snapshot_waits_for_deletes_under_way(world: World) -> None:
    world.store_chunk(0)
    world.condemn([0], GRACE.seconds * 2)
    prune = world.add("prune", world.prune())
    world.until(prune, "delete chunks/")
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "sleep")
    world.until(prune, "the end")
    assert isinstance(ended(world, snapshot), DeadlinePassedError)
    assert world.snapshots() == []

    again = world.add("snapshot", world.snapshot([0]))
    assert ended(world, again) is None
    assert len(world.snapshots()) == 1


def test_condemned_chunks_are_not_relied_on(world: World) -> None:
    world.store_chunk(0)
    # Condemned although a snapshot needs it: it came just between a prune's listing and its record.
    world.condemn([0], GRACE.seconds * 2)
    world.store_snapshot([0], GRACE.seconds * 2)
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "list snapshots/")
    world.step(snapshot, 0.0)
    world.until(snapshot, "upload snapshots/")
    world.delete_snapshots()
    prune = world.add("prune", world.prune())
    world.until(prune, "the end")
    assert ended(world, snapshot) is None
    assert len(world.snapshots()) == 1


def test_chunks_that_were_just_condemned_are_not_deleted_yet(world: World) -> None:
    world.store_chunk(0)
    world.store_snapshot([0], GRACE.seconds * 2)
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "list snapshots/")
    world.step(snapshot, 0.0)
    world.until(snapshot, "upload snapshots/")
    world.delete_snapshots()
    for _ in range(2):
        world.objects.now += GRACE.lease / 2 - 1
        prune = world.add("prune", world.prune())
        world.until(prune, "the end")
    assert ended(world, snapshot) is None
    assert len(world.snapshots()) == 1


def test_a_record_that_is_gone_is_not_worked_off(world: World) -> None:
    world.store_chunk(0)
    world.condemn([0], GRACE.seconds * 2)
    prune = world.add("prune", world.prune())
    # It has read the record and the manifests, and is stopped for days before its first delete.
    world.until(prune, "list chunks/")
    world.until(prune, "write clock/")
    world.objects.found.pop(*world.objects.keys("condemned/"))
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "write chunks/")
    world.until(prune, "send delete", or_end=True)
    world.until(snapshot, "the end")
    assert snapshot.error is None
    assert ended(world, prune) is None
    assert len(world.snapshots()) == 1


def test_a_record_stays_until_its_deletes_are_over(world: World) -> None:
    world.store_chunk(0)
    world.condemn([0], GRACE.seconds * 2)
    slow = world.add("prune", world.prune())
    world.until(slow, "delete chunks/")
    for _ in range(2):
        other = world.add("prune", world.prune())
        world.until(other, "the end")
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "sleep", or_end=True)
    world.until(slow, "the end")
    assert isinstance(ended(world, snapshot), DeadlinePassedError)
    assert world.snapshots() == []


def test_two_prunes_at_once_do_not_harm_each_other(world: World) -> None:
    for offset in itertools.count(0, 2):
        world.objects.found = {keys.REPOSITORY: world.objects.found[keys.REPOSITORY]}
        for number in range(3):
            world.store_chunk(number)
        world.condemn([0, 1], GRACE.seconds * 2)
        world.store_snapshot([1], GRACE.seconds * 2)
        one, other = world.add("prune", world.prune()), world.add("prune", world.prune())
        for _ in range(offset):
            world.step(one, 0.0)
        world.until(other, "the end")
        is_over = one.is_done
        assert ended(world, one) is None
        assert other.error is None
        assert world.objects.keys("chunks/") == sorted([chunk_key(1), chunk_key(2)])
        if is_over:
            break
    assert offset > 20


@pytest.mark.parametrize("end", ["killed", "failed"])
def test_a_prune_that_ends_anywhere_is_completed_by_the_next(world: World, end: str) -> None:
    for requests in itertools.count():
        world.objects.found = {keys.REPOSITORY: world.objects.found[keys.REPOSITORY]}
        for number in range(4):
            world.store_chunk(number)
        world.condemn([0, 1], GRACE.seconds * 2)
        world.store_snapshot([1], GRACE.seconds * 2)
        world.store_snapshot([2], 0)
        prune = world.add("prune", world.prune(fails_after=requests if end == "failed" else None))
        for _ in range(requests):
            world.step(prune, 0.0)
        if prune.is_done and prune.error is None:
            break
        if end == "killed":
            prune.kill()
        else:
            world.until(prune, "the end")
            assert isinstance(prune.error, StorageUnavailableError)
        before_deletes = [request for request in prune.requests if request.startswith("send delete")] == []
        if before_deletes:
            assert len(world.objects.keys("chunks/")) == 4
        prune_twice(world)
        assert world.objects.keys("chunks/") == sorted([chunk_key(1), chunk_key(2)])
        assert world.objects.keys("clock/") == []
    assert requests > 20


def test_a_deletion_that_is_killed_anywhere_is_completed_by_the_same_call(world: World) -> None:
    for requests in itertools.count():
        world.objects.found = {keys.REPOSITORY: world.objects.found[keys.REPOSITORY]}
        world.store_chunk(0)
        snapshot_id = world.store_snapshot([0], 0)
        world.objects.found[keys.chunk_list(snapshot_id)] = b"", int(world.objects.now)
        delete = world.add("delete", world.delete(0))
        for _ in range(requests):
            world.step(delete, 0.0)
        if delete.is_done:
            break
        delete.kill()
        Repository(VirtualStore(world.objects)).delete_snapshot(snapshot_id)
        assert world.objects.keys("snapshots/") == []
        assert world.objects.keys("trash/") == [keys.tombstone(snapshot_id)]
    assert requests > 4


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
