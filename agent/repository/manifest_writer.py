"""Writes a manifest to a local file as a stream: memory holds one section, whatever the number of entries."""

from __future__ import annotations

import io

from blake3 import blake3
from gpusnap.v1 import manifest_pb2 as pb

from agent.repository import manifest_layout as layout
from agent.repository import messages
from agent.repository.manifest_copy import Part, SavedSections
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import FORMAT_VERSION, Chunk, Entry, ManifestWarning, SnapshotSummary

ENTRIES_PER_SECTION = 2048
BYTES_PER_SECTION = 4 << 20
"""A section of entries is closed at this many raw bytes: large attributes and sparse maps fill it soon."""

SPARSE_SECTION = ENTRIES_PER_SECTION // 4
"""Where sections have fewer entries on average, they are not copied as they are but filled anew."""

CHUNKS_PER_SECTION = 16384
WARNINGS_PER_SECTION = 1024


class ManifestWriter:
    """Collects entries, chunks and warnings in archive order into an open binary file, which it does not close.

    Args:
        file: where to.
        earlier: the manifest that ``add_saved`` takes entries from.
    """

    def __init__(self, file: io.BufferedIOBase, earlier: ManifestReader | None = None) -> None:
        self._file = file
        self._offset = file.write(layout.MAGIC)
        self._index: list[pb.SectionIndex] = []
        self._entries: list[pb.ManifestEntry] = []
        self._entry_bytes = 0
        self._earlier = SavedSections(earlier, SPARSE_SECTION) if earlier is not None else None
        # The beginning of a section of the earlier manifest: once it is whole, it is copied as it is.
        self._held: Part | None = None

    def add_entry(self, entry: Entry, first_chunk: int = 0) -> None:
        """Appends one entry, whose chunk's number counts from ``first_chunk``."""
        self._let_go()
        message = messages.entry_to_pb(entry)
        message.chunk += first_chunk
        self._append(message)

    def add_saved(self, first: int, count: int, shift: int) -> None:
        """Appends entries of the earlier manifest.

        Args:
            first: the place of the first among all its entries, from 0.
            count: how many.
            shift: what their chunks' numbers grow by.

        Raises:
            DataLossError: the earlier manifest is damaged.
        """
        assert self._earlier is not None
        for part in self._earlier.parts(first, count):
            if shift or not self._hold(self._earlier, part):
                self._let_go()
                self._append_part(self._earlier, part, shift)

    def finish(self, summary: SnapshotSummary, chunks: list[Chunk], warnings: list[ManifestWarning]) -> None:
        """Appends the chunk table, the warnings, the footer and the trailer."""
        self._let_go()
        self._flush_entries()
        for start in range(0, len(chunks), CHUNKS_PER_SECTION):
            rows = [messages.chunk_to_pb(chunk) for chunk in chunks[start : start + CHUNKS_PER_SECTION]]
            self._section(pb.SECTION_KIND_CHUNKS, pb.ChunkSection(chunks=rows).SerializeToString(), len(rows))
        for start in range(0, len(warnings), WARNINGS_PER_SECTION):
            items = [messages.warning_to_pb(item) for item in warnings[start : start + WARNINGS_PER_SECTION]]
            self._section(pb.SECTION_KIND_WARNINGS, pb.WarningSection(warnings=items).SerializeToString(), len(items))
        footer = messages.summary_to_pb(summary, FORMAT_VERSION)
        footer.sections.extend(self._index)
        raw = footer.SerializeToString()
        stored = layout.compress(raw)
        self._file.write(stored)
        self._file.write(layout.build_trailer(stored, len(raw)))

    def _hold(self, earlier: SavedSections, part: Part) -> bool:
        """Takes a part that makes, or may still make, a section whole; says whether it did."""
        if self._held is not None and self._held.section != part.section:
            self._let_go()
        if not earlier.is_worth_copying or part.begin != (self._held.end if self._held is not None else 0):
            return False
        self._held = Part(part.section, 0, part.end)
        if earlier.is_whole(self._held):
            self._held = None
            self._flush_entries()
            index, stored = earlier.stored(part.section)
            self._write(stored, index)
        return True

    def _let_go(self) -> None:
        """Appends what was held of a section that does not become whole."""
        held, self._held = self._held, None
        if held is not None:
            assert self._earlier is not None
            self._append_part(self._earlier, held, 0)

    def _append_part(self, earlier: SavedSections, part: Part, shift: int) -> None:
        for message in earlier.messages(part):
            message.chunk += shift
            self._append(message)

    def _append(self, message: pb.ManifestEntry) -> None:
        self._entries.append(message)
        self._entry_bytes += message.ByteSize()
        if len(self._entries) == ENTRIES_PER_SECTION or self._entry_bytes >= BYTES_PER_SECTION:
            self._flush_entries()

    def _flush_entries(self) -> None:
        if self._entries:
            raw = pb.EntrySection(entries=self._entries).SerializeToString()
            self._section(pb.SECTION_KIND_ENTRIES, raw, len(self._entries), self._entries[0].path)
            self._entries = []
            self._entry_bytes = 0

    def _section(self, kind: pb.SectionKind.ValueType, raw: bytes, count: int, first_path: bytes = b"") -> None:
        stored = layout.compress(raw)
        facts = pb.SectionIndex(
            kind=kind,
            stored_size=len(stored),
            raw_size=len(raw),
            hash=blake3(stored).digest(),
            count=count,
            first_path=first_path,
        )
        self._write(stored, facts)

    def _write(self, stored: bytes, facts: pb.SectionIndex) -> None:
        index = pb.SectionIndex()
        index.CopyFrom(facts)
        index.offset = self._offset
        self._index.append(index)
        self._offset += self._file.write(stored)
