"""A large file on its way into a snapshot, from its first reading until all of its segments are stored."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from agent.repository.model import SEGMENT_SIZE, Entry
from agent.snapshot.segment_source import SegmentSource
from agent.snapshot.sink import ChunkRef
from agent.snapshot.source import refreshed, same_content
from agent.storage.source import Source


class LargeFile:
    """A large file whose segments are under way. Its descriptor stays open, so all segments are of one file.

    Args:
        number: its place in archive order.
        planned: its entry as it was scanned.
        fd: the file.
        attempt: how often it is read with this.

    Attributes:
        entry: its entry as it is read.
        left: segments that are yet to be read.
    """

    def __init__(self, number: int, planned: Entry, fd: int, attempt: int = 1) -> None:
        self.number = number
        self.planned = planned
        self.fd = fd
        self.attempt = attempt
        self.before = os.fstat(fd)
        self.entry = refreshed(planned, fd, self.before)
        self.segments: list[ChunkRef | None] = [None] * -(-self.entry.data_size // SEGMENT_SIZE)
        self.left = len(self.segments)
        self.is_short = False
        self.error: OSError | None = None
        self.lock = threading.Lock()
        self._sending = 0
        self._is_lost = False
        self._is_settled = False
        self._when_sent: Callable[[], None] | None = None

    @property
    def dropped_groups(self) -> frozenset[int]:
        """The group whose other names lead to what stood in its place before, if another file does now."""
        is_replaced = self.planned.hard_link_group != self.entry.hard_link_group
        return frozenset({self.planned.hard_link_group}) if is_replaced else frozenset()

    def has_changed(self) -> bool:
        """Says whether the file was written to while it was read, or a segment before it could be sent."""
        if self._is_lost or self._is_settled:
            return self._is_lost
        return self.is_short or not same_content(self.before, os.fstat(self.fd))

    def settle(self) -> None:
        """Says that it was read as it is to be stored: what is written to it from now on is not in this snapshot."""
        self._is_settled = True

    def again(self) -> LargeFile:
        """Returns the same file, to be read once more."""
        return LargeFile(self.number, self.planned, self.fd, self.attempt + 1)

    def sending_begins(self) -> None:
        """Notes that a segment is read from it while it is sent."""
        with self.lock:
            self._sending += 1

    def sending_ends(self, *, is_lost: bool) -> None:
        """Notes that the store has a segment, or that it has changed and is lost."""
        with self.lock:
            self._sending -= 1
            self._is_lost |= is_lost
            call = None if self._sending else self._when_sent
        if call is not None:
            call()

    def when_sent(self, call: Callable[[], None]) -> bool:
        """Has ``call`` called, by any thread, once nothing is sent from it any more.

        Returns ``False`` without that if all that was sent from it is stored, or nothing was.
        """
        with self.lock:
            if self._sending:
                self._when_sent = call
                return True
            is_lost = self._is_lost
        if is_lost:
            call()
        return is_lost


class SegmentInFile:
    """Where a segment can be read once more.

    Args:
        file: the file.
        start: where in its stored content the segment begins.
    """

    def __init__(self, file: LargeFile, start: int) -> None:
        self._file = file
        self._start = start
        self.sending_begins = file.sending_begins
        self.sending_ends = file.sending_ends

    def source(self, chunk: ChunkRef) -> Source | None:
        """Returns what reads it, unless no more files can be opened."""
        try:
            return SegmentSource(chunk.id, self._file.fd, self._file.entry, self._start, chunk.raw_size)
        except OSError:
            return None
