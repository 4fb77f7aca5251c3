"""Counts chunks from several threads."""

from __future__ import annotations

import threading

from agent.events import Garbage


class Tally:
    """A number of chunks and their bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks = self._bytes = 0

    def add(self, size: int) -> None:
        """Counts one chunk."""
        with self._lock:
            self._chunks += 1
            self._bytes += size

    @property
    def total(self) -> Garbage:
        """What was counted."""
        return Garbage(self._chunks, self._bytes)
