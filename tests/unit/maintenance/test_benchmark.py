"""What the rounds of a benchmark say, and which objects may be removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.model import Provider, StorageConfig, TransferConfig
from agent.errors import CancelledError
from agent.events import BenchmarkRun, Direction, Measurement
from agent.maintenance.benchmark import summary
from agent.maintenance.benchmark_objects import STRANGER_SECONDS, BenchmarkObjects, removable
from agent.storage.open import open_engine, open_store
from agent.storage.store import ObjectInfo

UP, DOWN = Direction.UPLOAD, Direction.DOWNLOAD
GB = 10**9


def test_one_slow_round_does_not_count() -> None:
    runs = [
        BenchmarkRun("s5cmd", UP, 1, GB, 10.0, 3.0),
        BenchmarkRun("stream", UP, 1, GB, 5.0, 1.0),
        BenchmarkRun("s5cmd", UP, 2, GB, 1000.0, 9.0),
        BenchmarkRun("s5cmd", UP, 3, GB, 8.0, 2.0),
        BenchmarkRun("stream", DOWN, 1, 2 * GB, 2.0, 1.0),
    ]
    assert summary(runs, 7) == (
        Measurement("s5cmd", UP, 1e8, 7, 3.0),
        Measurement("stream", UP, 2e8, 7, 1.0),
        Measurement("stream", DOWN, 1e9, 7, 0.5),
    )


def test_strangers_are_removed_only_when_they_are_old_by_the_stores_clock() -> None:
    now = 10**18
    old = now - STRANGER_SECONDS * GB
    found = [
        ObjectInfo("benchmark/mine/1", 5, now - 1),
        ObjectInfo("benchmark/mine/2", 5, now),
        ObjectInfo("benchmark/theirs/young", 5, old),
        ObjectInfo("benchmark/theirs/old", 5, old - 1),
        ObjectInfo("benchmark/mine-too/1", 5, now),
    ]
    assert removable(found, "benchmark/mine/") == ["benchmark/mine/1", "benchmark/mine/2", "benchmark/theirs/old"]
    assert removable(found[2:], "benchmark/mine/") == [], "without an own object nobody knows the store's time"


@pytest.fixture
def storage(tmp_path: Path) -> StorageConfig:
    return StorageConfig(Provider.LOCAL, endpoint=str(tmp_path))


@pytest.mark.parametrize("size", [1, 31, 32, 33, 9_000_000])
def test_objects_differ_and_are_known_again(storage: StorageConfig, size: int) -> None:
    store = open_store(storage)
    objects = BenchmarkObjects(store, "benchmark-1", size, lambda: None)
    keys = objects.keys(1, "stream", 2)
    assert keys == ["benchmark/benchmark-1/1-stream-00000", "benchmark/benchmark-1/1-stream-00001"]
    engine = open_engine(storage, TransferConfig(), "")
    for key in keys:
        outgoing = engine.outgoing(size)
        objects.write(outgoing, key)
        engine.upload(outgoing, key).result(30.0)
    engine.close()
    contents = [store.read(key) for key in keys]
    assert [len(content) for content in contents] == [size, size]
    assert [objects.is_right(key, memoryview(content)) for key, content in zip(keys, contents, strict=True)] == [
        True
    ] * 2
    if size > 2:
        assert not objects.is_right(keys[0], memoryview(contents[1]))
        damaged = bytearray(contents[0])
        damaged[-1] ^= 1
        assert not objects.is_right(keys[0], memoryview(damaged))
    assert not objects.is_right(keys[0], memoryview(contents[0] + b"x"))
    assert not objects.is_right(keys[0], memoryview(contents[0][:-1]))
    objects.remove_all()
    assert list(store.list("")) == []


def test_leftovers_of_this_benchmark_and_of_known_ones_are_removed(storage: StorageConfig) -> None:
    store = open_store(storage)
    for key in ("benchmark/mine/1", "benchmark/known/1", "benchmark/known/2", "benchmark/stranger/1", "chunks/aa/x"):
        store.write(key, b"x")
    BenchmarkObjects(store, "mine", 5, lambda: None).remove_leftovers(["known", "long-gone"])
    assert [found.key for found in store.list("")] == ["benchmark/stranger/1", "chunks/aa/x"]


def test_a_cancel_ends_the_writing_of_an_object(storage: StorageConfig) -> None:
    def check() -> None:
        raise CancelledError("the operation was cancelled")

    engine = open_engine(storage, TransferConfig(), "")
    objects = BenchmarkObjects(open_store(storage), "mine", 1000, check)
    outgoing = engine.outgoing(1000)
    with pytest.raises(CancelledError):
        objects.write(outgoing, "key")
    outgoing.release()
    engine.close()
