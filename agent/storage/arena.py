"""The memory that objects on their way share, and worker processes with them: one piece, used again and again."""

from __future__ import annotations

import bisect
import threading
from collections import deque

from agent.errors import OutOfMemoryError
from agent.pipeline.memory import SharedMemory
from agent.storage.engine import Place
from agent.storage.staging import cancelled

GRAIN = 64 << 10
"""Rooms begin and end at multiples of this, which also bounds how many tiny objects are under way."""

LARGEST_ROOM = (64 << 20) + GRAIN
"""What the largest stored chunk takes."""

ARENA_BYTES = 4 * LARGEST_ROOM
"""What an arena takes by default: four of the largest stored chunks. A restore on two cores gains nothing by more."""


def arena_bytes(staging_size: int, free: int) -> int:
    """Returns what an arena takes of the bytes that may be on their way: all, or by default ``ARENA_BYTES``.

    Who allows more than the default has a link that is wide and far: then it is two thirds, as a chunk that is uploaded
    over one connection takes its room for long.

    Args:
        staging_size: the bytes that may be on their way; a staging folder on a disk may have more than the memory.
        free: bytes of memory that are free; only a quarter is taken for more than the default.
    """
    return min(staging_size, max(ARENA_BYTES, min(staging_size * 2 // 3, free // 4)))


class Room:
    """A part of an arena that belongs to one object until it is released.

    Attributes:
        view: its memory.
        place: where other processes find it.
    """

    def __init__(self, arena: Arena, memory: SharedMemory, start: int, size: int) -> None:
        self._arena = arena
        self._memory = memory
        self.view = memory.view[start : start + size]
        self.place = Place(memory.fd, start, size)

    def release(self) -> None:
        """Gives the memory back. Further calls do nothing."""
        self._arena.give_back(self)

    def is_in(self, memory: SharedMemory | None) -> bool:
        """Says whether it is a part of this memory."""
        return self._memory is memory


class Arena:
    """Hands out rooms in the order of asking.

    A room is taken as low as possible, so that memory which is not needed is never touched.

    Args:
        capacity: bytes that may be in use at once.
        most: what ``widen`` may make of it at most; by default the capacity stays as it is.
    """

    def __init__(self, capacity: int, most: int = 0) -> None:
        self._capacity = _rounded(capacity)
        self._most = max(_rounded(most), self._capacity)
        self._memory: SharedMemory | None = None
        self._holes = [(0, self._capacity)]
        self._rooms: set[Room] = set()
        self._queue: deque[object] = deque()
        self._aborted = False
        self._changed = threading.Condition()

    @property
    def capacity(self) -> int:
        """Bytes that may be in use at once."""
        with self._changed:
            return self._capacity

    @property
    def waiting(self) -> int:
        """How many threads wait for a room."""
        with self._changed:
            return len(self._queue)

    def has_room(self, size: int, seconds: float) -> bool:
        """Waits so long for a moment in which ``take`` would not block; says whether there was one."""
        size = _rounded(size)
        with self._changed:
            return self._changed.wait_for(lambda: self._aborted or (not self._queue and self._fits(size)), seconds)

    def take(self, size: int) -> Room:
        """Returns a room of ``size`` bytes or a little more, blocking while there is none.

        An object larger than the whole arena is let in when nothing else is, with memory of its own.

        Raises:
            CancelledError: ``abort`` was called.
            OutOfMemoryError: the machine cannot give so much memory.
        """
        size = _rounded(size)
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._aborted or (self._queue[0] is ticket and self._fits(size)))
                if self._aborted:
                    raise cancelled()
                room = Room(self, _memory(size), 0, size) if size > self._capacity else self._cut(size)
                self._rooms.add(room)
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        return room

    def give_back(self, room: Room) -> None:
        """Ends a room; called by ``Room.release``."""
        with self._changed:
            if room not in self._rooms:
                return
            self._rooms.remove(room)
            if room.is_in(self._memory):
                self._fill(room.place.offset, room.place.offset + room.place.size)
            self._changed.notify_all()

    def widen(self, capacity: int) -> None:
        """Allows more bytes at once from now on."""
        capacity = min(_rounded(capacity), self._most)
        with self._changed:
            if capacity > self._capacity:
                self._fill(self._capacity, capacity)
                self._capacity = capacity
                self._changed.notify_all()

    def abort(self) -> None:
        """Fails everyone who waits, now and later. Rooms that were handed out stay valid."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        if size > self._capacity:
            return not self._rooms
        return any(end - start >= size for start, end in self._holes)

    def _cut(self, size: int) -> Room:
        if self._memory is None:
            self._memory = _memory(self._most)
        index = next(index for index, (start, end) in enumerate(self._holes) if end - start >= size)
        start, end = self._holes[index]
        self._holes[index : index + 1] = [(start + size, end)] if end - start > size else []
        return Room(self, self._memory, start, size)

    def _fill(self, start: int, end: int) -> None:
        index = bisect.bisect(self._holes, (start, end))
        if index < len(self._holes) and self._holes[index][0] == end:
            end = self._holes.pop(index)[1]
        if index and self._holes[index - 1][1] == start:
            index -= 1
            start = self._holes.pop(index)[0]
        self._holes.insert(index, (start, end))


def _rounded(size: int) -> int:
    return max(-(-size // GRAIN), 1) * GRAIN


def _memory(size: int) -> SharedMemory:
    try:
        return SharedMemory(size)
    except (OSError, OverflowError, MemoryError) as error:
        raise OutOfMemoryError(f"there is no memory for {size:,} bytes") from error
