"""Puts pieces that are finished in any order back into archive order and writes their entries to the manifest."""

from __future__ import annotations

import threading

import msgspec

from agent.events import ClassTotals, ScanTotals
from agent.pipeline.crew import Allowance
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Entry, EntryType, ManifestWarning
from agent.snapshot.sink import ChunkRef

MAX_KEPT_WARNINGS = 10_000
"""The manifest keeps no more warnings; all are counted."""


class Piece(msgspec.Struct, frozen=True):
    """What one pack or one large file became. Entries name their chunk by its place in ``chunks``.

    Attributes:
        planned: entries that were planned, which is what the piece holds of the allowance.
        dropped_groups: hard-link groups whose first name could not be saved.
    """

    chunks: list[ChunkRef]
    entries: list[Entry]
    planned: int
    dropped_groups: frozenset[int] = frozenset()


class SnapshotWarnings(Warnings):
    """Warnings that also go into the manifest."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[ManifestWarning] = []

    def add(self, reason: str, message: str, path: bytes) -> None:
        """Notes one warning, for the events and for the manifest."""
        super().add(reason, message, path)
        if len(self.kept) < MAX_KEPT_WARNINGS:
            self.kept.append(ManifestWarning(reason, message, path))


class Assembly:
    """The archive as it grows. ``place`` may be called from any thread."""

    def __init__(self, writer: ManifestWriter, allowance: Allowance, warnings: Warnings) -> None:
        self._writer = writer
        self._allowance = allowance
        self._warnings = warnings
        self._lock = threading.Lock()
        self._waiting: dict[int, Piece] = {}
        self._next = 0
        self._dropped_groups: set[int] = set()
        self._counts = {EntryType.DIRECTORY: 0, EntryType.SYMLINK: 0, EntryType.HARD_LINK: 0}
        self._entries = 0
        self._files = {True: [0, 0], False: [0, 0]}
        self.chunks: list[ChunkRef] = []

    def place(self, number: int, piece: Piece) -> None:
        """Takes the piece that is ``number`` in archive order, from 0."""
        with self._lock:
            self._waiting[number] = piece
            while (ready := self._waiting.pop(self._next, None)) is not None:
                self._append(ready)
                self._next += 1
                self._allowance.give(ready.planned)

    @property
    def totals(self) -> ScanTotals:
        """What the snapshot holds; final once every piece was placed."""
        return ScanTotals(
            entries=self._entries,
            directories=self._counts[EntryType.DIRECTORY],
            links=self._counts[EntryType.SYMLINK] + self._counts[EntryType.HARD_LINK],
            models=ClassTotals(*self._files[True]),
            other=ClassTotals(*self._files[False]),
            complete=True,
        )

    def _append(self, piece: Piece) -> None:
        first_chunk = len(self.chunks)
        self.chunks.extend(piece.chunks)
        self._dropped_groups |= piece.dropped_groups
        for entry in piece.entries:
            if entry.type is EntryType.HARD_LINK and entry.hard_link_group in self._dropped_groups:
                self._warnings.add("FILE_VANISHED", "the file it is a link to could not be saved", entry.path)
                continue
            self._writer.add_entry(entry, first_chunk)
            self._entries += 1
            if entry.type is EntryType.FILE:
                files = self._files[entry.model]
                files[0] += 1
                files[1] += entry.data_size
            elif entry.type in self._counts:
                self._counts[entry.type] += 1
