"""Collects warnings: one event per reason, with the first paths and the number of all."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from agent.events import Emit, WarningRaised

PATHS_PER_WARNING = 100
"""Paths that one warning names; the others are counted."""


class Warnings:
    """The warnings of one operation. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: dict[str, list[bytes]] = {}
        self._messages: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def add(self, reason: str, message: str, path: bytes) -> None:
        """Notes one warning; the message of the first of a reason stands for all."""
        with self._lock:
            self._messages.setdefault(reason, message)
            self._counts[reason] = self._counts.get(reason, 0) + 1
            paths = self._paths.setdefault(reason, [])
            if len(paths) < PATHS_PER_WARNING:
                paths.append(path)

    def take(self) -> tuple[WarningRaised, ...]:
        """Returns what was noted since the last call, and forgets it."""
        with self._lock:
            taken = self._events()
            self._paths, self._messages, self._counts = {}, {}, {}
        return taken

    def merge(self, taken: Iterable[WarningRaised]) -> None:
        """Notes what others took."""
        with self._lock:
            for warning in taken:
                self._messages.setdefault(warning.reason, warning.message)
                self._counts[warning.reason] = self._counts.get(warning.reason, 0) + warning.count
                paths = self._paths.setdefault(warning.reason, [])
                paths.extend(warning.paths[: PATHS_PER_WARNING - len(paths)])

    @property
    def count(self) -> int:
        """All warnings so far."""
        with self._lock:
            return sum(self._counts.values())

    def emit(self, emit: Emit) -> None:
        """Emits one event per reason."""
        with self._lock:
            events = self._events()
        for event in events:
            emit(event)

    def _events(self) -> tuple[WarningRaised, ...]:
        return tuple(
            WarningRaised(reason, message, tuple(self._paths[reason]), self._counts[reason])
            for reason, message in self._messages.items()
        )
