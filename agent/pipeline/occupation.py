"""What the threads of an operation spend their time on, so that it can say what held it back."""

from __future__ import annotations

import threading
import time

from agent.events import Cause, Occupation

_NANO = 1e-9


class Occupations:
    """Adds up the time of an operation's workers, by cause. For any thread.

    A worker waits for something that has a name, or is on a processor or in line for one (the kernel counts both, see
    ``processor_seconds``), or else is held up in a read or write of local files.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(Cause, 0.0)

    def worked(self, seconds: float, on_processor: float) -> None:
        """Counts a piece of work of one thread that did not wait for anything but local files."""
        self.add(Cause.PROCESSOR, on_processor)
        self.add(Cause.DISK, max(seconds - on_processor, 0.0))

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
