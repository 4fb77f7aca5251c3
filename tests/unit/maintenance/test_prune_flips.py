"""Prunes whose listings and readings come with a flipped bit, as over plain http they may: nothing is lost by one."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from agent.errors import DataLossError, StorageUnavailableError
from agent.events import Garbage
from agent.maintenance.retention import Rules
from agent.repository import condemned, keys
from agent.repository.repository import Repository
from tests.support.kept import GRACE, Kept
from tests.support.virtual_store import VirtualStore


def test_a_list_of_chunks_stays_whose_manifest_a_listing_does_not_show(kept: Kept) -> None:
    snapshot = kept.snapshot(1, 0)
    key = keys.manifest(snapshot)
    flipped = msgspec.structs.replace(kept.store.head(key), key=keys.manifest(snapshot[:-1] + "x"))
    kept.objects.listed_as[key] = flipped
    kept.later()
    assert kept.prune().litter == 0
    assert keys.chunk_list(snapshot) in kept.objects.found
    # What that prune has condemned is needed by the next one.
    del kept.objects.listed_as[key]
    kept.later()
    assert kept.prune().freed == Garbage()


@pytest.mark.parametrize("what", ["a tombstone", "a list of chunks"])
def test_nothing_is_deleted_for_the_time_that_one_listing_shows(kept: Kept, what: str) -> None:
    key = (keys.tombstone if what == "a tombstone" else keys.chunk_list)("20200101T000000Z-00000001")
    kept.store.write(key, kept.store.read(keys.manifest(kept.snapshot(1, 0))))
    found = kept.store.head(key)
    kept.objects.listed_as[key] = msgspec.structs.replace(found, modified_ns=found.modified_ns - 10**9 * 2**20)
    assert kept.prune().litter == 0
    assert key in kept.objects.found


def test_an_error_at_the_second_look_ends_a_prune(kept: Kept) -> None:
    left = keys.chunk_list("20200101T000000Z-00000000")
    kept.store.write(left, b"")
    kept.later()

    def turn(request: str) -> None:
        if request == f"head {keys.manifest('20200101T000000Z-00000000')}":
            raise StorageUnavailableError("the store does not answer")

    kept.repository = Repository(VirtualStore(kept.objects, turn))
    with pytest.raises(StorageUnavailableError):
        kept.prune()
    assert left in kept.objects.found


def test_litter_that_is_used_again_meanwhile_stays(kept: Kept) -> None:
    """A snapshot that was stopped for days goes on, and writes its list once more while a prune looks."""
    left = keys.chunk_list("20200101T000000Z-00000000")
    kept.store.write(left, b"before")
    kept.later()

    def turn(request: str) -> None:
        if request == f"head {left}":
            kept.store.write(left, b"now")

    kept.repository = Repository(VirtualStore(kept.objects, turn))
    assert kept.prune().litter == 0
    assert kept.objects.found[left][0] == b"now"


def test_a_snapshot_that_is_listed_twice_counts_once(kept: Kept) -> None:
    oldest, *_, newest = snapshots = [kept.snapshot(day, day) for day in range(1, 5)]
    key = keys.manifest(oldest)
    kept.objects.listed_as[key] = msgspec.structs.replace(kept.store.head(key), key=keys.manifest(newest))
    assert kept.prune(Rules(last=3)).removed == 0
    assert {keys.manifest(snapshot) for snapshot in snapshots} <= set(kept.objects.found)


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_grace_that_differs_at_two_readings_is_not_believed(kept: Kept, wrong: int) -> None:
    kept.chunk(0)
    kept.later()
    kept.prune()
    kept.later()
    before = dict(kept.objects.found)
    right = kept.store.read(keys.REPOSITORY)
    readings = itertools.count()

    def turn(request: str) -> None:
        if request == f"read {keys.REPOSITORY}":
            is_wrong = next(readings) == wrong
            kept.objects.found[keys.REPOSITORY] = right.replace(b"3600", b"2600") if is_wrong else right, 0

    kept.repository = Repository(VirtualStore(kept.objects, turn))
    if wrong:
        # Nothing was done by it, and a third reading tells.
        assert kept.prune().freed == Garbage(1, 100)
        return
    with pytest.raises(DataLossError, match=r"2600 seconds.*3600"):
        kept.prune()
    assert kept.objects.found.keys() == before.keys()


def test_a_record_stays_until_its_deletes_are_over_although_a_listing_hides_it(kept: Kept) -> None:
    kept.chunk(0)
    for _ in range(2):
        kept.later()
        kept.prune()
    done, both = (
        [key for key in kept.objects.keys("condemned/") if key.endswith("/done")],
        kept.objects.keys("condemned/"),
    )
    hidden = done[0].replace("/done", "/chunks")
    kept.objects.listed_as[hidden] = msgspec.structs.replace(kept.store.head(hidden), key=hidden[:-1] + "r")
    assert condemned.remove_settled(kept.store, int(kept.objects.now), GRACE) == 0
    assert kept.objects.keys("condemned/") == both
    kept.later(GRACE.settle)
    assert condemned.remove_settled(kept.store, int(kept.objects.now), GRACE) == 1
