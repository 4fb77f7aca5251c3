"""The shared memory of objects on their way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import CancelledError, OutOfMemoryError
from agent.storage.arena import ARENA_BYTES, GRAIN, Arena, Room, arena_bytes
from tests.support.processes import wait_until

MIB = 1 << 20


@given(st.lists(st.tuples(st.integers(0, 4 * GRAIN), st.integers(0, 9)), max_size=200))
def test_rooms_never_overlap_and_all_comes_back(steps: list[tuple[int, int]]) -> None:
    arena = Arena(16 * GRAIN)
    rooms: list[tuple[Room, int]] = []
    free = 16
    for number, (size, which) in enumerate(steps):
        needed = max(-(-size // GRAIN), 1)
        while rooms and (which == 0 or free < needed * 4):
            room, mark = rooms.pop(which % len(rooms))
            assert room.view == bytes([mark]) * len(room.view)
            free += len(room.view) // GRAIN
            room.release()
            room.release()
            which += 1 if which else 0
        if free < needed * 4:
            continue
        # A quarter of what is free is in one piece as long as fewer than four rooms divide it.
        while len(rooms) >= 3:
            room, mark = rooms.pop()
            free += len(room.view) // GRAIN
            room.release()
        room = arena.take(size)
        assert len(room.view) == needed * GRAIN
        room.view[:] = bytes([number % 256]) * len(room.view)
        free -= needed
        rooms.append((room, number % 256))
    for room, mark in rooms:
        assert room.view == bytes([mark]) * len(room.view)
        room.release()
    assert len(arena.take(16 * GRAIN).view) == 16 * GRAIN


@pytest.mark.parametrize(
    ("staging_size", "free", "expected"),
    [
        (160 * MIB, 64 << 30, 160 * MIB),
        (384 * MIB, 64 << 30, ARENA_BYTES),
        (3 << 30, 64 << 30, 2 << 30),
        (3 << 30, 4 << 30, 1 << 30),
        (100 << 30, 0, ARENA_BYTES),
    ],
    ids=["little is allowed", "the default", "a wide network", "little memory", "nobody says how much memory"],
)
def test_what_an_arena_takes(staging_size: int, free: int, expected: int) -> None:
    assert arena_bytes(staging_size, free) == expected


def test_memory_is_used_again() -> None:
    arena = Arena(MIB)
    first = arena.take(MIB)
    first.view[:4] = b"mark"
    first.release()
    assert bytes(arena.take(MIB).view[:4]) == b"mark"


def test_something_larger_than_the_arena_is_let_in_alone() -> None:
    arena = Arena(MIB)
    small = arena.take(1)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(arena.take, 3 * MIB)
        wait_until(lambda: arena.waiting == 1, "the large one waits")
        behind = pool.submit(arena.take, 1)
        wait_until(lambda: arena.waiting == 2, "another waits behind it")
        small.release()
        room = large.result(30.0)
        assert len(room.view) == 3 * MIB
        behind.result(30.0).release()
        room.release()


def test_abort_fails_who_waits_now_and_later() -> None:
    arena = Arena(MIB)
    held = arena.take(MIB)
    failed = threading.Event()

    def wait() -> None:
        with pytest.raises(CancelledError):
            arena.take(1)
        failed.set()

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: arena.waiting == 1, "someone waits")
    arena.abort()
    assert failed.wait(30.0)
    thread.join()
    with pytest.raises(CancelledError):
        arena.take(1)
    held.view[:1] = b"x"
    held.release()


def test_more_than_there_is_is_refused_by_numbers() -> None:
    arena = Arena(MIB)
    for size in (1 << 60, 1 << 70):
        with pytest.raises(OutOfMemoryError, match=f"{size:,}"):
            arena.take(size)
    arena.take(MIB).release()


def test_a_wider_arena_has_more_room_and_never_less() -> None:
    arena = Arena(4 * GRAIN, most=10 * GRAIN)
    first = arena.take(4 * GRAIN)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(arena.take, 5 * GRAIN)
        wait_until(lambda: arena.waiting == 1, "no room is left")
        arena.widen(9 * GRAIN)
        second = waiting.result(30.0)
    arena.widen(GRAIN)
    arena.widen(100 * GRAIN)
    third = arena.take(GRAIN)
    for number, room in enumerate((first, second, third)):
        room.view[:] = bytes([number]) * len(room.view)
    assert [bytes(room.view[:1]) for room in (first, second, third)] == [b"\0", b"\1", b"\2"]
    for room in (first, second, third):
        room.release()
    assert len(arena.take(10 * GRAIN).view) == 10 * GRAIN
