"""Counts entries by what they are."""

from __future__ import annotations

from agent.events import ClassTotals, ScanTotals
from agent.repository.manifest_walk import SavedEntry
from agent.repository.model import Entry, EntryType


class Tally:
    """Counts that grow. For one thread at a time."""

    def __init__(self) -> None:
        self._entries = self._directories = self._links = 0
        self._model_files = self._model_bytes = self._other_files = self._other_bytes = 0

    def add(self, entry: Entry | SavedEntry) -> None:
        """Counts one entry."""
        self._entries += 1
        kind = entry.type
        if kind is EntryType.FILE:
            if entry.model:
                self._model_files += 1
                self._model_bytes += entry.data_size
            else:
                self._other_files += 1
                self._other_bytes += entry.data_size
        elif kind is EntryType.DIRECTORY:
            self._directories += 1
        elif kind in (EntryType.SYMLINK, EntryType.HARD_LINK):
            self._links += 1

    def add_all(self, totals: ScanTotals) -> None:
        """Counts what another tally has counted."""
        self._entries += totals.entries
        self._directories += totals.directories
        self._links += totals.links
        self._model_files += totals.models.files
        self._model_bytes += totals.models.bytes
        self._other_files += totals.other.files
        self._other_bytes += totals.other.bytes

    def totals(self, complete: bool = False) -> ScanTotals:
        """Returns the counts so far; ``complete`` says that they are final."""
        return ScanTotals(
            entries=self._entries,
            directories=self._directories,
            links=self._links,
            models=ClassTotals(self._model_files, self._model_bytes),
            other=ClassTotals(self._other_files, self._other_bytes),
            complete=complete,
        )
