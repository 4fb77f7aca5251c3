"""The protocol between prunes and snapshots, scene by scene: no listed snapshot ever lacks a chunk, whoever is stopped
for however long, or killed, at any request to the store.
"""

from __future__ import annotations

import itertools

import msgspec
import pytest

from agent.errors import DataLossError, DeadlinePassedError, StorageUnavailableError
from agent.repository import keys
from agent.repository.repository import Repository
from tests.support import forging
from tests.support.protocol_world import (
    CHUNKS,
    CONTENTS,
    GRACE,
    World,
    chunk_key,
    ended,
    prune_twice,
)
from tests.support.virtual_store import VirtualStore


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


def refreshing(world: World, damaged_reads: int) -> BaseException | None:
    """Has a snapshot take another lease after a prune, with answers that come damaged; returns how it ended."""
    snapshot = world.add("snapshot", world.snapshot([0, 1]))
    world.until(snapshot, "upload snapshots/")
    world.objects.now += GRACE.seconds + 3
    world.until(world.add("prune", world.prune()), "the end")
    world.objects.damaged_reads[chunk_key(1)] = damaged_reads
    return ended(world, snapshot)


def test_what_arrives_damaged_is_not_stored_under_the_chunks_id(world: World) -> None:
    assert refreshing(world, damaged_reads=2) is None
    assert world.objects.damaged_reads[chunk_key(1)] == 0
    assert len(world.snapshots()) == 1
    assert [world.objects.found[chunk_key(number)][0] for number in (0, 1)] == [
        forging.frame(raw) for raw in CONTENTS[:2]
    ]


def test_a_chunk_that_cannot_be_refreshed_ends_the_snapshot_which_can_be_repeated(world: World) -> None:
    error = refreshing(world, damaged_reads=1000)
    assert isinstance(error, DataLossError)
    assert [item.chunk_id for item in error.damaged] == [CHUNKS[1].id.hex()]
    assert world.snapshots() == []
    # As the hint says.
    assert ended(world, world.add("snapshot", world.snapshot([0, 1]))) is None
    assert world.objects.found[chunk_key(1)][0] == forging.frame(CONTENTS[1])


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


@pytest.mark.parametrize("place", [-8, 20], ids=["the name", "the record"])
def test_a_record_is_seen_although_a_bit_flips_in_a_listing(world: World, place: int) -> None:
    world.store_chunk(0)
    # Its deletion was interrupted, and goes on after the next snapshot has found it.
    world.store_snapshot([0], GRACE.seconds * 2)
    world.condemn([0], GRACE.seconds * 2)
    (key,) = world.objects.keys("condemned/")
    flipped = key[:place] + chr(ord(key[place]) ^ 1) + key[place + 1 :]
    world.objects.listed_as[key] = msgspec.structs.replace(VirtualStore(world.objects).head(key), key=flipped)
    snapshot = world.add("snapshot", world.snapshot([0]))
    world.until(snapshot, "list condemned/")
    world.step(snapshot, 0.0)
    del world.objects.listed_as[key]
    world.until(snapshot, "list snapshots/", or_end=True)
    world.until(snapshot, "upload snapshots/")
    world.delete_snapshots()
    prune = world.add("prune", world.prune())
    world.until(prune, "the end")
    assert ended(world, snapshot) is None
    world.check()


def test_what_is_condemned_and_needed_stays_although_a_bit_flips_in_a_listing(world: World) -> None:
    world.store_chunk(0)
    snapshot = world.store_snapshot([0], 0)
    # It was committed after that by a snapshot that had found the chunk before.
    world.condemn([0], GRACE.seconds * 2)
    key = keys.manifest(snapshot)
    flipped = keys.manifest(snapshot[:-1] + chr(ord(snapshot[-1]) ^ 1))
    world.objects.listed_as[key] = msgspec.structs.replace(VirtualStore(world.objects).head(key), key=flipped)
    prune = world.add("prune", world.prune())
    world.until(prune, "list snapshots/")
    world.step(prune, 0.0)
    del world.objects.listed_as[key]
    assert ended(world, prune) is None
    world.check()
    assert any("done" in key for key in world.objects.keys("condemned/"))


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
