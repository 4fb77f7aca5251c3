"""Which chunks are there: as a naive look says, and with no more requests than the cheaper of the two ways."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import CancelledError
from agent.events import ChunkKind
from agent.repository import keys, presence
from agent.repository.model import Chunk
from agent.repository.presence import Fault, find_faults
from agent.storage.directory import DirectoryStore
from agent.storage.store import ObjectInfo
from tests.support.pipelines import memory_folder
from tests.support.virtual_store import Objects, VirtualStore

PAGE = 10
"""Objects of a page in these tests."""


class CountingStore(DirectoryStore):
    """A store in a folder that counts what an S3 store would be asked."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.listed = self.asked = 0

    @property
    def requests(self) -> int:
        return -(-self.listed // PAGE) + self.asked

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for found in super().list(prefix):
            self.listed += 1
            yield found

    def head(self, key: str) -> ObjectInfo:
        self.asked += 1
        return super().head(key)


def chunk(number: int, size: int = 3) -> Chunk:
    return Chunk(blake3(number.to_bytes(4, "big")).digest(), 512, size, ChunkKind.PACK)


@pytest.fixture(autouse=True, scope="module")
def _small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence, "LISTED_AT_ONCE", PAGE)
        yield


def fill(folder: str, numbers: list[int]) -> CountingStore:
    store = CountingStore(folder)
    for number in numbers:
        store.write(keys.chunk(chunk(number).id), b"abc")
    return store


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 90)), st.sets(st.integers(0, 60)))
def test_what_a_naive_look_finds(stored: set[int], wanted: set[int], resized: set[int]) -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        store = fill(folder, list(stored))
        chunks = [chunk(number, 4 if number in resized else 3) for number in wanted]
        counts: list[int] = []
        faults = find_faults(store, chunks, counts.append)
    found = {(fault.chunk, fault.problem == presence.MISSING) for fault in faults}
    expected = {
        (item, number not in stored)
        for number, item in zip(wanted, chunks, strict=True)
        if number not in stored or number in resized
    }
    assert found == expected
    assert len(found) == len(faults)
    assert sum(counts) == len(wanted)


@pytest.mark.parametrize(("stored", "wanted"), [(200, 1), (200, 2), (200, 5), (200, 150), (200, 200), (5, 200), (9, 9)])
def test_no_more_requests_than_the_cheaper_way_takes(stored: int, wanted: int) -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        store = fill(folder, list(range(stored)))
        assert len(find_faults(store, [chunk(number) for number in range(wanted)], lambda _: None)) == max(
            wanted - stored, 0
        )
        by_listing = stored // PAGE + 1
        # One page tells which way is cheaper, and what it tells is an estimate.
        assert store.requests <= min(by_listing, wanted) + 2


def test_two_sizes_of_one_chunk_are_both_looked_at() -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        store = fill(folder, [1, 2])
        faults = find_faults(store, [chunk(1), chunk(1, 4), chunk(2)], lambda _: None)
    assert [(fault.chunk.stored_size, "4" in fault.problem) for fault in faults] == [(4, True)]


@pytest.mark.parametrize("changed", [{"key": "chunks/ooo"}, {"size": 2}])
def test_a_bit_that_flips_in_a_listing_is_no_fault(changed: dict[str, Any]) -> None:
    objects = Objects()
    store = VirtualStore(objects)
    for number in range(5):
        store.write(keys.chunk(chunk(number).id), b"abc")
    key = keys.chunk(chunk(2).id)
    objects.listed_as[key] = msgspec.structs.replace(store.head(key), **changed)
    seen: list[int] = []
    assert find_faults(store, [chunk(number) for number in range(5)], seen.append) == []
    assert sum(seen) == 5
    store.delete(key)
    (fault,) = find_faults(store, [chunk(number) for number in range(5)], seen.append)
    assert fault == Fault(chunk(2), presence.MISSING)


def test_what_is_no_chunk_does_not_disturb() -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        store = fill(folder, list(range(30)))
        for name in ("chunks/zz", "chunks/00/odd", "chunks/ff/odd", "chunks/7f/odd"):
            store.write(name, b"x")
        assert find_faults(store, [chunk(number) for number in range(30)], lambda _: None) == []


def test_it_can_be_stopped() -> None:
    def stop(_: int) -> None:
        raise CancelledError("enough")

    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        store = fill(folder, list(range(3)))
        for wanted in (1, 3):
            with pytest.raises(CancelledError):
                find_faults(store, [chunk(number) for number in range(wanted)], stop)
