"""Prunes and snapshots of one repository, each stopped at every request to the store; store and time are virtual.

The code is the real one of prunes and of a snapshot's lease and commit.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

from agent.config.model import Provider, StorageConfig
from agent.errors import StorageUnavailableError
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
from tests.support.interleaving import Actor
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


class TimeOfThread(threading.local):
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
        forging.set_grace(store, GRACE)

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


def chunk_key(number: int) -> str:
    """Returns the key of the chunk of a content."""
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
