"""The events of one operation: numbered, kept within bounds, and read by any number of readers at their own pace.

Readers pull from one shared log, so that a reader costs nothing while it is slow: what it did not fetch in time and
what is of no use any more (old progress, old chunks) is simply gone when it comes back.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

from agent.errors import ShuttingDownError
from agent.events import (
    ChunkFinished,
    Completed,
    FileReady,
    OperationEvent,
    Progress,
    ScanTotals,
    WarningRaised,
)
from agent.operations.record import LoggedEvent

CHUNKS_KEPT = 1024
"""Chunk events that are kept for readers that are late."""

FILES_KEPT = 4096
"""File-ready events that are kept for readers that are late."""

WARNINGS_KEPT = 1000
"""Warnings that are sent one by one; the rest is sent at the end, one a reason, with its count."""

WARNING_BYTES_KEPT = 2 << 20
"""Bytes of paths and messages in the warnings that are sent one by one."""

REASONS_KEPT = 64
"""Distinct reasons among the warnings that are sent at the end; the rest goes by the name of OTHER."""

RUN_SHIFT = 32
"""An operation that outlives the agent goes on counting at the next multiple of 2**32.

So numbers grow even if the events of the run before were not written down; no run has as many events.
"""


def first_sequence_after_restart(last_sequence: int) -> int:
    """Returns a number greater than any that was given out before, if ``last_sequence`` was one of them."""
    return ((last_sequence >> RUN_SHIFT) + 1) << RUN_SHIFT


class EventLog:
    """The log of one operation. Not thread-safe: it belongs to the event loop.

    Args:
        next_sequence: the number of the first event.
        clock: nanoseconds since 1970-01-01 UTC.
    """

    def __init__(self, next_sequence: int = 1, clock: Callable[[], int] = time.time_ns) -> None:
        self._next = next_sequence
        self._clock = clock
        self._kept: dict[int, LoggedEvent] = {}
        self._chunks: deque[int] = deque()
        self._files: deque[int] = deque()
        self._latest: dict[type[Progress] | type[ScanTotals], int] = {}
        self._warnings = 0
        self._warning_bytes = 0
        self._folded: dict[str, tuple[WarningRaised, int]] = {}
        self._changed = asyncio.Event()
        self._ended = False
        self._interrupted = False

    @classmethod
    def rebuilt(cls, history: Iterable[LoggedEvent]) -> EventLog:
        """Returns the log of an operation that has ended, from what the journal kept."""
        log = cls()
        for logged in history:
            log._kept[logged.sequence] = logged
            log._next = logged.sequence + 1
        log._ended = True
        return log

    @property
    def last_sequence(self) -> int:
        """The number of the last event; the one before the first if there is none yet."""
        return self._next - 1

    @property
    def progress(self) -> Progress | None:
        """The latest progress."""
        sequence = self._latest.get(Progress)
        event = self._kept[sequence].event if sequence is not None else None
        return event if isinstance(event, Progress) else None

    def draft(self, event: OperationEvent) -> LoggedEvent:
        """Returns ``event`` as ``append`` would log it next, without logging it."""
        return LoggedEvent(self._next, self._clock(), event)

    def append(self, event: OperationEvent) -> LoggedEvent | None:
        """Numbers and keeps an event; ``None`` if it is a warning that will be part of a count at the end."""
        if isinstance(event, WarningRaised) and not self._room_for(event):
            self._fold(event)
            return None
        logged = self.draft(event)
        self.add(logged)
        return logged

    def add(self, logged: LoggedEvent) -> None:
        """Keeps an event that ``draft`` made; nothing was added since."""
        if self._ended or logged.sequence != self._next:
            raise ValueError("the operation has ended, or another event came in between")
        self._next += 1
        self._kept[logged.sequence] = logged
        self._forget_older(logged)
        self._ended = isinstance(logged.event, Completed)
        self._changed.set()
        self._changed = asyncio.Event()

    def interrupt(self) -> None:
        """Lets readers go: nothing comes any more from this agent."""
        self._interrupted = True
        self._changed.set()

    def unfold_warnings(self) -> None:
        """Adds the warnings that were only counted, one event a reason; to be called before the completion."""
        for reason, (first, count) in self._folded.items():
            message = f"and more of the kind: {first.message}"
            self.add(self.draft(WarningRaised(reason, message, first.paths[:10], count)))
        self._folded.clear()

    def history(self) -> list[LoggedEvent]:
        """Returns what is worth keeping for ever: everything but chunks and progress."""
        return [logged for logged in self._kept.values() if not isinstance(logged.event, ChunkFinished | Progress)]

    def after(self, sequence: int) -> list[LoggedEvent]:
        """Returns what is kept with a greater number, ascending."""
        newer: list[LoggedEvent] = []
        for logged in reversed(self._kept.values()):
            if logged.sequence <= sequence:
                break
            newer.append(logged)
        newer.reverse()
        return newer

    async def read(self, sequence: int) -> AsyncIterator[LoggedEvent]:
        """Yields events with a greater number as they come, and ends after the completion.

        Raises:
            ShuttingDownError: the rest comes from the next agent.
        """
        while True:
            for logged in self.after(sequence):
                sequence = logged.sequence
                # A reader that was slow meanwhile skips progress that has been overtaken.
                if logged.sequence in self._kept:
                    yield logged
            if sequence < self.last_sequence:
                continue
            if self._ended:
                return
            if self._interrupted:
                raise ShuttingDownError(
                    "the agent is shutting down, and leaves the operation to be continued when it is back",
                    hint="attach again when the agent is back",
                )
            await self._changed.wait()

    def _forget_older(self, logged: LoggedEvent) -> None:
        event = logged.event
        if isinstance(event, ChunkFinished):
            self._ring(self._chunks, logged.sequence, CHUNKS_KEPT)
        elif isinstance(event, FileReady):
            self._ring(self._files, logged.sequence, FILES_KEPT)
        elif isinstance(event, Progress | ScanTotals):
            before = self._latest.get(type(event))
            if before is not None:
                del self._kept[before]
            self._latest[type(event)] = logged.sequence

    def _ring(self, ring: deque[int], sequence: int, limit: int) -> None:
        ring.append(sequence)
        if len(ring) > limit:
            del self._kept[ring.popleft()]

    def _room_for(self, warning: WarningRaised) -> bool:
        size = len(warning.message) + sum(map(len, warning.paths))
        if self._warnings >= WARNINGS_KEPT or self._warning_bytes + size > WARNING_BYTES_KEPT:
            return False
        self._warnings += 1
        self._warning_bytes += size
        return True

    def _fold(self, warning: WarningRaised) -> None:
        reason = warning.reason
        if reason not in self._folded and len(self._folded) >= REASONS_KEPT:
            reason = "OTHER"
        first, count = self._folded.get(reason, (warning, 0))
        self._folded[reason] = (first, count + warning.count)
