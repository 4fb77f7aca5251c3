"""Puts pieces that are finished in any order back into archive order and writes their entries to the manifest."""

from __future__ import annotations

import threading

import msgspec

from agent.events import ScanTotals
from agent.pipeline.crew import Allowance
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Entry, EntryType, ManifestWarning
from agent.snapshot.sink import ChunkRef
from agent.snapshot.tally import Tally
from agent.snapshot.unchanged import UnchangedRun

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


class KeptPiece(msgspec.Struct, frozen=True):
    """An unchanged run of the parent, with its chunks."""

    chunks: list[ChunkRef]
    run: UnchangedRun

    @property
    def planned(self) -> int:
        """As in ``Piece``."""
        return len(self.run.saved)


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
        self._waiting: dict[int, Piece | KeptPiece] = {}
        self._next = 0
        self._dropped_groups: set[int] = set()
        self._tally = Tally()
        self._unchanged = Tally()
        self.chunks: list[ChunkRef] = []

    def place(self, number: int, piece: Piece | KeptPiece) -> None:
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
        return self._tally.totals(complete=True)

    @property
    def unchanged(self) -> ScanTotals:
        """What of it was not read."""
        return self._unchanged.totals(complete=True)

    def _append(self, piece: Piece | KeptPiece) -> None:
        first_chunk = len(self.chunks)
        self.chunks.extend(piece.chunks)
        if isinstance(piece, KeptPiece):
            self._append_kept(piece.run, first_chunk)
            return
        self._dropped_groups |= piece.dropped_groups
        for entry in piece.entries:
            self._append_entry(entry, first_chunk)

    def _append_kept(self, run: UnchangedRun, first_chunk: int) -> None:
        shift = first_chunk - run.saved[0].chunk
        if self._dropped_groups and run.links_to(self._dropped_groups):
            for saved in run.saved:
                self._append_entry(msgspec.structs.replace(saved.entry(), chunk=0), first_chunk)
            return
        self._writer.add_saved(run.saved[0].number, len(run.saved), shift)
        self._tally.add_all(run.totals)
        self._unchanged.add_all(run.totals)

    def _append_entry(self, entry: Entry, first_chunk: int) -> None:
        if entry.type is EntryType.HARD_LINK and entry.hard_link_group in self._dropped_groups:
            self._warnings.add("FILE_VANISHED", "the file it is a link to could not be saved", entry.path)
            return
        self._writer.add_entry(entry, first_chunk)
        self._tally.add(entry)
