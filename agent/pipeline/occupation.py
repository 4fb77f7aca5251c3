"""What the threads of an operation spend their time on, so that it can say what held it back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from agent.events import Cause, Occupation

_NANO = 1e-9


class _Thread(threading.local):
    waited: float | None = None


class Occupations:
    """Adds up the time of an operation's working threads, by cause. For any thread.

    A registered thread waits for something that is named (``waiting``), or is on a processor or in line for one (the
    kernel counts both), or else is held up in a read or write of local files.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(Cause, 0.0)
        self._thread = _Thread()

    @contextlib.contextmanager
    def thread(self) -> Iterator[None]:
        """Registers the calling thread for the length of the block."""
        self._thread.waited = 0.0
        begun, on_processor = time.monotonic(), processor_seconds()
        try:
            yield
        finally:
            processor = processor_seconds() - on_processor
            rest = time.monotonic() - begun - processor - self._thread.waited
            self._thread.waited = None
            self.add(Cause.PROCESSOR, processor)
            self.add(Cause.DISK, max(rest, 0.0))

    @contextlib.contextmanager
    def waiting(self, cause: Cause) -> Iterator[None]:
        """Counts the block as waiting, if the calling thread is registered."""
        begun = time.monotonic()
        try:
            yield
        finally:
            if self._thread.waited is not None:
                seconds = time.monotonic() - begun
                self._thread.waited += seconds
                self.add(cause, seconds)

    def add(self, cause: Cause, seconds: float) -> None:
        """Counts seconds of one thread."""
        with self._lock:
            self._seconds[cause] += seconds

    def totals(self) -> tuple[Occupation, ...]:
        """Returns the seconds by cause, summed over threads, the largest first: that one held the operation back."""
        with self._lock:
            found = [Occupation(cause, seconds) for cause, seconds in self._seconds.items() if seconds > 0]
        return tuple(sorted(found, key=lambda item: item.seconds, reverse=True))


def processor_seconds() -> float:
    """Returns how long the calling thread was on a processor or ready for one."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            running, ready, _ = file.read().split()
    except (OSError, ValueError):
        # A kernel without scheduler statistics: time in line for a processor then counts as the disk's.
        return time.thread_time()
    return (int(running) + int(ready)) * _NANO
