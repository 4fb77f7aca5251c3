"""How large the parts are in which the stream engine fetches an object."""

from __future__ import annotations

import pytest

from agent.storage.arena import ARENA_BYTES, LARGEST_ROOM
from agent.storage.stream import LARGEST_PART, SMALLEST_PART, part_bytes

MIB = 1 << 20


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
