"""Large files that are not done when they were read: what is sent from them is yet to be stored."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from agent.pipeline.crew import Crew, wait_for
from agent.snapshot.large_file import LargeFile


class SentFiles:
    """Large files that were read, and wait until all that is sent from them is stored. For any thread.

    Args:
        readers: threads that read files; each calls ``reader_ends``.
    """

    def __init__(self, crew: Crew, readers: int) -> None:
        self._crew = crew
        self._readers = readers
        self._waiting = 0
        self._lock = threading.Lock()
        self._ready: queue.SimpleQueue[LargeFile | None] = queue.SimpleQueue()
        self._readers_ended = 0.0
        self.seconds = 0.0
        """How long it took after the last file was read."""

    def takes(self, file: LargeFile) -> bool:
        """Takes a file that is not stored as a whole yet; ``False`` if it is."""
        with self._lock:
            is_taken = file.when_sent(lambda: self._ready.put(file))
            self._waiting += is_taken
        return is_taken

    def reader_ends(self) -> None:
        """Says that a thread has read its last file."""
        with self._lock:
            self._readers -= 1
            self._readers_ended = time.monotonic()
            self._end_if_done()

    def run(self, finish: Callable[[LargeFile], None]) -> None:
        """Finishes files as they get ready, until the last one.

        Raises:
            GpusnapError: one could not be finished, or the crew stops.
        """
        while (file := wait_for(self._ready, self._crew.check)) is not None:
            finish(file)
            with self._lock:
                self._waiting -= 1
                self._end_if_done()
        self.seconds = time.monotonic() - self._readers_ended

    def _end_if_done(self) -> None:
        if not self._readers and not self._waiting:
            self._ready.put(None)
