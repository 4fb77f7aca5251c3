"""Writes a manifest to a local file as a stream: memory holds one section, whatever the number of entries."""

from __future__ import annotations

import io

from blake3 import blake3
from gpusnap.v1 import manifest_pb2 as pb

from agent.repository import manifest_layout as layout
from agent.repository import messages
from agent.repository.model import FORMAT_VERSION, Chunk, Entry, ManifestWarning, SnapshotSummary

ENTRIES_PER_SECTION = 2048
BYTES_PER_SECTION = 4 << 20
"""A section of entries is closed at this many raw bytes: large attributes and sparse maps fill it soon."""

CHUNKS_PER_SECTION = 16384
WARNINGS_PER_SECTION = 1024


class ManifestWriter:
    """Collects entries, chunks and warnings in archive order into an open binary file, which it does not close."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file = file
        self._offset = file.write(layout.MAGIC)
        self._index: list[pb.SectionIndex] = []
        self._entries: list[pb.ManifestEntry] = []
        self._entry_bytes = 0
        self._first_path = b""

    def add_entry(self, entry: Entry, first_chunk: int = 0) -> None:
        """Appends one entry, whose chunk's number counts from ``first_chunk``."""
        if not self._entries:
            self._first_path = entry.path
        message = messages.entry_to_pb(entry)
        message.chunk += first_chunk
        self._entries.append(message)
        self._entry_bytes += message.ByteSize()
        if len(self._entries) == ENTRIES_PER_SECTION or self._entry_bytes >= BYTES_PER_SECTION:
            self._flush_entries()

    def finish(self, summary: SnapshotSummary, chunks: list[Chunk], warnings: list[ManifestWarning]) -> None:
        """Appends the chunk table, the warnings, the footer and the trailer."""
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

    def _flush_entries(self) -> None:
        if self._entries:
            raw = pb.EntrySection(entries=self._entries).SerializeToString()
            self._section(pb.SECTION_KIND_ENTRIES, raw, len(self._entries), self._first_path)
            self._entries = []
            self._entry_bytes = 0

    def _section(self, kind: pb.SectionKind.ValueType, raw: bytes, count: int, first_path: bytes = b"") -> None:
        stored = layout.compress(raw)
        self._index.append(
            pb.SectionIndex(
                kind=kind,
                offset=self._offset,
                stored_size=len(stored),
                raw_size=len(raw),
                hash=blake3(stored).digest(),
                count=count,
                first_path=first_path,
            )
        )
        self._offset += self._file.write(stored)
