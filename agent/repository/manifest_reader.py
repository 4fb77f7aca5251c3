"""Reads a manifest from anything that can be read by range: a local file, or the object in the store.

Everything read is verified against the hashes of the footer, and every entry against ``validate``.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec
from blake3 import blake3
from google.protobuf.message import DecodeError, Message
from gpusnap.v1 import manifest_pb2 as pb

from agent.errors import DataLossError
from agent.repository import manifest_layout as layout
from agent.repository import messages, validate
from agent.repository.model import Chunk, Entry, EntryType, ManifestWarning, Outline, SnapshotSummary, order
from agent.repository.wire import check_field_count

ReadAt = Callable[[int, int], bytes]
"""Reads (offset, length); fewer bytes only at the end."""

_M = TypeVar("_M", bound=Message)

TAIL_SIZE = 64 << 10
"""Read at once from the end: holds trailer and footer of a manifest of up to about half a million entries."""

READ_ATTEMPTS = 2
"""How often a section is read that does not match its hash: the damage may be on the way."""

MAX_SECTIONS = 1 << 17
MAX_ENTRIES = 1 << 12
MAX_CHUNK_ROWS = 1 << 15
MAX_WARNINGS = 1 << 11
"""Sections of a manifest, and entries, chunks or warnings of one at most: twice what is ever written, or more."""

MAX_CHUNKS = 1 << 21
"""Chunks of a snapshot at most: the table stays in memory. At 16 MiB each they are 32 TiB."""


PART_OF_RUN = 256
"""Entries of a run that are decoded at once: whoever needs only the first does not pay for all."""


class Location(msgspec.Struct, frozen=True, gc=False):
    """Where an entry stands: the number of its section, and its place in it."""

    section: int
    position: int


class ManifestReader:
    """One manifest. Its methods may be called from several threads at once.

    Args:
        read_at: how to read it.
        tail: its last bytes (at least TRAILER_SIZE, unless it is shorter).
        size: its size in bytes.

    Raises:
        DataLossError: the manifest is damaged.
        RepositoryVersionError: it is of an unknown format version.
    """

    def __init__(self, read_at: ReadAt, tail: bytes, size: int) -> None:
        self._read_at = read_at
        self._tail, self._tail_start = tail, size - len(tail)
        trailer = layout.parse_trailer(tail[-layout.TRAILER_SIZE :], size)
        end = layout.TRAILER_SIZE + trailer.stored_size
        stored = tail[-end : -layout.TRAILER_SIZE] if end <= len(tail) else read_at(size - end, trailer.stored_size)
        footer = _parse(pb.ManifestFooter(), layout.open_footer(trailer, stored), MAX_SECTIONS)
        _check_places(footer, size - end)
        validate.check_texts(footer.snapshot_id, footer.parent, footer.host, footer.workspace, footer.agent_version)
        self.summary: SnapshotSummary = messages.summary_from_pb(footer)
        self._entries = [index for index in footer.sections if index.kind == pb.SECTION_KIND_ENTRIES]
        self._chunks = [index for index in footer.sections if index.kind == pb.SECTION_KIND_CHUNKS]
        self._warnings = [index for index in footer.sections if index.kind == pb.SECTION_KIND_WARNINGS]
        self._table: list[Chunk] | None = None
        self._last_run: tuple[int, Sequence[pb.ManifestEntry]] = (-1, ())

    @property
    def entry_sections(self) -> int:
        """How many sections hold entries."""
        return len(self._entries)

    def chunks(self) -> list[Chunk]:
        """Returns the whole chunk table, in archive order."""
        if self._table is None:
            self._table = list(self.each_chunk())
        return self._table

    def each_chunk(self) -> Iterator[Chunk]:
        """Yields the chunk table, in archive order; memory holds one section."""
        count = 0
        for index in self._chunks:
            section = _parse(pb.ChunkSection(), self._read(index), MAX_CHUNK_ROWS)
            count += len(section.chunks)
            if count > MAX_CHUNKS:
                raise DataLossError(f"the manifest is damaged: it has more than {MAX_CHUNKS} chunks")
            for message in section.chunks:
                chunk = messages.chunk_from_pb(message)
                validate.check_chunk(chunk)
                yield chunk

    def section_index(self, number: int) -> pb.SectionIndex:
        """Returns what the footer says about one section of entries."""
        return self._entries[number]

    def stored_section(self, number: int) -> bytes:
        """Returns one section of entries as it is stored."""
        return self._stored(self._entries[number])

    def entry_messages(self, number: int) -> Sequence[pb.ManifestEntry]:
        """Returns the messages of one section of entries; what they say is not checked."""
        index = self._entries[number]
        found = _parse(pb.EntrySection(), self._read(index), MAX_ENTRIES).entries
        if len(found) != index.count:
            raise DataLossError("the manifest is damaged: a section has another number of entries than its index says")
        return found

    def section(self, number: int) -> list[Entry]:
        """Returns the entries of one section, checked."""
        return self._checked(self.entry_messages(number))

    def outlines(self, number: int) -> list[Outline]:
        """Returns the outlines of one section; none is checked, each alone or against the others."""
        return [messages.outline_from_pb(message) for message in self.entry_messages(number)]

    def entries(self, first_section: int = 0) -> Iterator[Entry]:
        """Yields every entry in archive order; memory holds one section.

        Raises:
            DataLossError: besides damage, when the entries are out of order.
        """
        last: bytes | None = None
        for number in range(first_section, len(self._entries)):
            for entry in self.section(number):
                last = validate.check_order(entry, last)
                yield entry

    def run_of_entries(self, first: Location, count: int) -> Iterator[Entry]:
        """Yields ``count`` entries from a place on, checked. The section in which the last run ended is kept."""
        number, position = first.section, first.position
        while count > 0 and number < len(self._entries):
            kept, found = self._last_run
            if kept != number:
                found = self.entry_messages(number)
                self._last_run = number, found
            part = self._checked(found[position : position + min(count, PART_OF_RUN)])
            yield from part
            count -= len(part)
            position += len(part)
            if position >= len(found):
                number, position = number + 1, 0

    def entries_at(self, number: int, positions: Iterable[int]) -> list[Entry]:
        """Returns the entries at some ascending places of one section, checked."""
        section = self.entry_messages(number)
        return self._checked([section[position] for position in positions])

    def of_types(self, number: int, types: Container[EntryType]) -> list[Entry]:
        """Returns the entries of one section that are of some types, checked."""
        return self._checked([item for item in self.entry_messages(number) if messages.type_from_pb(item) in types])

    def _checked(self, found: Sequence[pb.ManifestEntry]) -> list[Entry]:
        entries = [messages.entry_from_pb(item) for item in found]
        validate.check_run(entries, self.chunks())
        return entries

    def entries_from(self, path: bytes) -> Iterator[Entry]:
        """Yields the entries from ``path`` (or where it would stand) on, reading no section before it."""
        place = order(path)
        starts = [order(index.first_path) for index in self._entries]
        first = max(bisect.bisect_right(starts, place) - 1, 0)
        return (entry for entry in self.entries(first) if order(entry.path) >= place)

    def find(self, path: bytes) -> Entry | None:
        """Returns the entry of exactly this path."""
        entry = next(self.entries_from(path), None)
        return entry if entry is not None and entry.path == path else None

    def warnings(self, limit: int) -> list[ManifestWarning]:
        """Returns the first ``limit`` warnings."""
        found: list[ManifestWarning] = []
        for index in self._warnings:
            if len(found) >= limit:
                break
            section = _parse(pb.WarningSection(), self._read(index), MAX_WARNINGS)
            for item in section.warnings[: limit - len(found)]:
                validate.check_texts(item.reason, item.message, item.path)
                found.append(messages.warning_from_pb(item))
        return found

    def check_hashes(self) -> None:
        """Makes sure that every section is as it was written.

        Raises:
            DataLossError: one is not.
        """
        for index in (*self._entries, *self._chunks):
            self._stored(index)
        self.check_warnings()

    def check_warnings(self) -> None:
        """Makes sure that the warnings are as they were written; raises as ``check_hashes``."""
        for index in self._warnings:
            self._stored(index)

    def _read(self, index: pb.SectionIndex) -> bytes:
        return layout.decompress(self._stored(index), index.raw_size)

    def _stored(self, index: pb.SectionIndex) -> bytes:
        for attempt in range(READ_ATTEMPTS):
            place = index.offset - self._tail_start
            if attempt == 0 and place >= 0:
                stored = self._tail[place : place + index.stored_size]
            else:
                stored = self._read_at(index.offset, index.stored_size)
            if blake3(stored).digest() == index.hash:
                return stored
        raise DataLossError("the manifest is damaged: a section does not match its hash")


def _check_places(footer: pb.ManifestFooter, footer_offset: int) -> None:
    """Makes sure that the sections fill what is before the footer, each byte of it once."""
    end = len(layout.MAGIC)
    for index in footer.sections:
        if index.raw_size > layout.MAX_SECTION_SIZE or index.stored_size > index.raw_size:
            raise DataLossError("the manifest is damaged: a section claims an impossible size")
        if index.offset != end:
            raise DataLossError("the manifest is damaged: a section claims an impossible place")
        end += index.stored_size
    if end != footer_offset:
        raise DataLossError("the manifest is damaged: its sections do not end where its footer begins")


def _parse(message: _M, raw: bytes, most_items: int) -> _M:
    check_field_count(raw, most_items)
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise DataLossError("the manifest is damaged: a message cannot be decoded") from error
    return message


def read_local(path: str) -> ManifestReader:
    """Opens a manifest that lies in a local file; the file is read whenever an entry is."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - TAIL_SIZE, 0))
        tail = file.read()

    def read_at(offset: int, length: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(length)

    return ManifestReader(read_at, tail, size)
