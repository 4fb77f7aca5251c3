"""The memory of the stream engine, and how large the parts are in which it fetches an object."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.config.model import Credentials, EngineChoice, Provider, StorageConfig, TransferConfig
from agent.errors import CancelledError
from agent.pipeline.workers import free_memory
from agent.repository.frame import max_stored_size
from agent.repository.model import MAX_CHUNK_SIZE
from agent.storage.arena import ARENA_BYTES, GRAIN, LARGEST_ROOM, arena_bytes
from agent.storage.open import open_engine
from agent.storage.stream import LARGEST_PART, SMALLEST_PART, part_bytes
from tests.support.processes import wait_until

MIB = 1 << 20
NOWHERE = StorageConfig(
    provider=Provider.CUSTOM, bucket="bucket", endpoint="http://127.0.0.1:1", credentials=Credentials("id", "secret")
)
LARGEST = max_stored_size(MAX_CHUNK_SIZE)
ROOM = -(-LARGEST // GRAIN) * GRAIN


@pytest.mark.parametrize("staging_size", [TransferConfig().staging_size, 1536 << 20], ids=["the default", "more"])
def test_so_many_large_chunks_can_be_uploaded_at_once(staging_size: int) -> None:
    transfer = TransferConfig(engine=EngineChoice.STREAM, staging_size=staging_size)
    # What is free may have changed a little when the engine asks.
    at_once = arena_bytes(staging_size, free_memory() * 9 // 10) // ROOM
    assert at_once >= 4
    engine = open_engine(NOWHERE, transfer, "/nowhere")
    with ThreadPoolExecutor(1) as pool:
        try:
            rooms = [pool.submit(engine.outgoing, LARGEST).result(30.0) for _ in range(at_once)]
            more = pool.submit(engine.outgoing, staging_size)
            wait_until(more.running, "all of it is asked for")
        finally:
            engine.abort()
        with pytest.raises(CancelledError):
            more.result(30.0)
    for room in rooms:
        room.release()


@pytest.mark.parametrize("connections", [1, 8, 16, 32, 64, 256])
@pytest.mark.parametrize("capacity", [MIB, 96 * MIB, 192 * MIB, ARENA_BYTES, 1024 * MIB])
def test_what_has_room_keeps_all_connections_busy(connections: int, capacity: int) -> None:
    size = part_bytes(connections, capacity)
    objects = max(capacity // LARGEST_ROOM, 1)
    assert SMALLEST_PART <= size <= LARGEST_PART
    assert size == SMALLEST_PART or objects * -(-64 * MIB // size) >= connections


@pytest.mark.parametrize(
    ("connections", "capacity", "expected"),
    [(64, ARENA_BYTES, 4 * MIB), (32, 192 * MIB, 4 * MIB), (8, ARENA_BYTES, 16 * MIB), (64, 1024 * MIB, 15 * MIB)],
)
def test_they_are_no_smaller_than_that_takes(connections: int, capacity: int, expected: int) -> None:
    assert part_bytes(connections, capacity) - expected in range(MIB // 2)
