"""What is fetched before a restore has a plan: no more than there is room for, given back where it is not needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.config.model import TransferConfig
from agent.events import ChunkKind
from agent.repository import keys
from agent.repository.model import Chunk
from agent.restore.ahead import Ahead
from agent.storage.directory import DirectoryStore
from agent.storage.directory_engine import DirectoryEngine

MIB = 1 << 20
CAPACITY = 40 * MIB
KINDS = [ChunkKind.PACK, ChunkKind.HEADER, ChunkKind.SEGMENT, ChunkKind.PACK, ChunkKind.SEGMENT, ChunkKind.PACK]


def chunk(number: int, kind: ChunkKind) -> Chunk:
    return Chunk(number.to_bytes(32, "big"), 4 * MIB, 4 * MIB, kind)


TABLE = [chunk(number, kind) for number, kind in enumerate(KINDS)]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DirectoryEngine]:
    store = DirectoryStore(str(tmp_path), "")
    for each in TABLE:
        store.write(keys.chunk(each.id), bytes(each.stored_size))
    made = DirectoryEngine(store, CAPACITY, threads=2)
    yield made
    made.close()


def begun(ahead: Ahead) -> list[int]:
    return [number for number, each in enumerate(TABLE) if each.id in ahead.chunk_ids]


def test_it_begins_as_the_plan_will_with_a_quarter_of_the_room(engine: DirectoryEngine) -> None:
    with contextlib.closing(Ahead(engine, TransferConfig(staging_size=CAPACITY))) as ahead:
        ahead.begin(TABLE)
        assert begun(ahead) == [0, 2]


def test_it_begins_no_more_than_there_are_connections(engine: DirectoryEngine) -> None:
    with contextlib.closing(Ahead(engine, TransferConfig(staging_size=CAPACITY, connections=1))) as ahead:
        ahead.begin(TABLE)
        assert begun(ahead) == [2]


def test_it_leaves_segments_to_others(engine: DirectoryEngine) -> None:
    with contextlib.closing(Ahead(engine, TransferConfig(staging_size=4 * CAPACITY))) as ahead:
        ahead.begin(TABLE, leaves_segments=True)
        assert begun(ahead) == [0, 3, 5]


def test_a_chunk_is_handed_over_once(engine: DirectoryEngine) -> None:
    with contextlib.closing(Ahead(engine, TransferConfig(staging_size=CAPACITY))) as ahead:
        ahead.begin(TABLE)
        future = ahead.take(TABLE[2].id)
        assert future is not None
        incoming = future.result(30.0)
        assert len(incoming.view) == TABLE[2].stored_size
        incoming.release()
        assert ahead.take(TABLE[2].id) is None
        assert ahead.take(TABLE[1].id) is None


def test_what_nobody_needs_gives_its_room_back(engine: DirectoryEngine) -> None:
    ahead = Ahead(engine, TransferConfig(staging_size=CAPACITY))
    ahead.begin(TABLE)
    ahead.keep([TABLE[0].id])
    assert begun(ahead) == [0]
    ahead.close()
    assert begun(ahead) == []
    # With a chunk held back, there would be no room for all of these at once.
    wanted = [*TABLE, *TABLE[:3]]
    with ThreadPoolExecutor(1) as pool:
        try:
            room = pool.submit(lambda: [engine.download(keys.chunk(each.id), each.stored_size) for each in wanted])
            for future in room.result(30.0):
                future.result(30.0).release()
        finally:
            engine.abort()
