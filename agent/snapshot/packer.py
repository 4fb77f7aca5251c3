"""Builds packs and segments from files: reading is here, hashing and uploading in the sink."""

from __future__ import annotations

import mmap
import os
import threading

import msgspec

from agent.events import ChunkKind, Stage
from agent.pipeline.beneath import Beneath
from agent.pipeline.crew import Crew, Stopwatch
from agent.pipeline.meter import Meter
from agent.pipeline.warnings import Warnings
from agent.repository.frame import Encoder
from agent.repository.model import BLOCK, MAX_CHUNK_SIZE, SEGMENT_SIZE, Entry, EntryType, padded
from agent.repository.tar import member_header
from agent.snapshot.assembly import Assembly, Piece
from agent.snapshot.plan import PackPlan
from agent.snapshot.sink import ChunkRef, ChunkSink
from agent.snapshot.source import READ_ATTEMPTS, cut, open_file, read_content, refreshed, same_content

READ_STEP = 4 << 20
"""Segments are read in steps of this many bytes, and a cancel is seen between them."""


class PackTask(msgspec.Struct, frozen=True):
    """Build the pack that is ``number`` in archive order."""

    number: int
    plan: PackPlan


class LargeFile:
    """A large file whose segments are under way. Its descriptor stays open, so all segments are of one file."""

    def __init__(self, number: int, entry: Entry, fd: int) -> None:
        self.number = number
        self.fd = fd
        self.before = os.fstat(fd)
        self.entry = refreshed(entry, fd, self.before)
        self.segments: list[ChunkRef | None] = [None] * -(-self.entry.data_size // SEGMENT_SIZE)
        self.left = len(self.segments)
        self.is_short = False
        self.error: OSError | None = None
        self.lock = threading.Lock()

    def has_changed(self) -> bool:
        """Says whether the file was written to since its reading began."""
        return self.is_short or not same_content(self.before, os.fstat(self.fd))


class SegmentTask(msgspec.Struct, frozen=True):
    """Build one segment of a large file."""

    file: LargeFile
    index: int


class Packer:
    """Does tasks. One per thread: it keeps a buffer of one chunk and the directories that are open."""

    def __init__(
        self, root_fd: int, sink: ChunkSink, assembly: Assembly, crew: Crew, meter: Meter, warnings: Warnings
    ) -> None:
        self._beneath = Beneath(root_fd)
        self._sink = sink
        self._assembly = assembly
        self._crew = crew
        self._meter = meter
        self._warnings = warnings
        # Anonymous memory: pages are taken when first used, and used again for every chunk.
        self._buffer = memoryview(mmap.mmap(-1, MAX_CHUNK_SIZE))
        self._encoder = Encoder()

    def close(self) -> None:
        """Closes the open directories."""
        self._beneath.forget()

    def pack(self, task: PackTask) -> None:
        """Builds a pack and places it."""
        with Stopwatch() as watch:
            size, kept, dropped = self._fill(task.plan)
        content = sum(entry.data_size for entry in kept)
        models = sum(entry.data_size for entry in kept if entry.model)
        self._meter.add(Stage.PACK, content, len(task.plan.entries), watch.seconds, models)
        chunks = [self._sink.put(self._buffer[:size], ChunkKind.PACK, self._encoder)] if size else []
        self._assembly.place(task.number, Piece(chunks, kept, len(task.plan.entries), dropped))

    def segment(self, task: SegmentTask) -> None:
        """Builds a segment; the last one of a file also places the file."""
        file = task.file
        try:
            if file.error is None:
                self._read_segment(file, task.index)
        except OSError as error:
            file.error = error
        with file.lock:
            file.left -= 1
            is_last = file.left == 0
        if is_last:
            self.finish(file)

    def finish(self, file: LargeFile) -> None:
        """Reads a file again that changed meanwhile, writes its header chunk and places it."""
        try:
            if file.error is not None:
                raise file.error
            file = self._settled(file)
        except OSError as error:
            self.drop(file.number, file.entry, error)
            return
        finally:
            os.close(file.fd)
        entry = msgspec.structs.replace(file.entry, segments=len(file.segments))
        header = memoryview(member_header(entry))
        chunks = [self._sink.put(header, ChunkKind.HEADER, self._encoder), *filter(None, file.segments)]
        self._meter.add(Stage.PACK, entries=1)
        self._assembly.place(file.number, Piece(chunks, [entry], 1))

    def drop(self, number: int, entry: Entry, error: OSError) -> None:
        """Places nothing instead of a large file that cannot be read."""
        self._unreadable(entry.path, error)
        self._meter.add(Stage.PACK, entries=1)
        self._assembly.place(number, Piece([], [], 1, frozenset({entry.hard_link_group} - {0})))

    def _settled(self, file: LargeFile) -> LargeFile:
        """Returns the file as it was read without a change, or as last read, with a warning."""
        for _ in range(READ_ATTEMPTS - 1):
            if not file.has_changed():
                return file
            file = LargeFile(file.number, file.entry, file.fd)
            for index in range(len(file.segments)):
                self._read_segment(file, index)
        if file.has_changed():
            self._changed(file.entry)
        return file

    def _fill(self, plan: PackPlan) -> tuple[int, list[Entry], frozenset[int]]:
        position = 0
        reserved = sum(plan.bounds)
        kept: list[Entry] = []
        dropped: set[int] = set()
        for entry, bound in zip(plan.entries, plan.bounds, strict=True):
            self._crew.check()
            reserved -= bound
            if entry.type is EntryType.FILE:
                added = self._add_file(entry, position, MAX_CHUNK_SIZE - reserved)
                if added is None:
                    dropped.add(entry.hard_link_group)
                    continue
                position, entry = added
            else:
                header = member_header(entry)
                self._buffer[position : position + len(header)] = header
                position += len(header)
            kept.append(entry)
        return position, kept, frozenset(dropped - {0})

    def _add_file(self, entry: Entry, position: int, limit: int) -> tuple[int, Entry] | None:
        """Adds a file's member that ends before ``limit``; returns the new position, or None if it cannot be read."""
        try:
            fd = open_file(self._beneath, entry.path)
            try:
                return self._read_file(fd, entry, position, limit)
            finally:
                os.close(fd)
        except OSError as error:
            self._unreadable(entry.path, error)
            return None

    def _read_file(self, fd: int, entry: Entry, position: int, limit: int) -> tuple[int, Entry]:
        for _ in range(READ_ATTEMPTS):
            before = os.fstat(fd)
            entry = refreshed(entry, fd, before)
            header = member_header(entry)
            if entry.sparse and position + len(header) > limit:
                # It became sparse after the plan was made, and there is no room for its map: holes become zeros.
                entry = msgspec.structs.replace(entry, sparse=False, extents=(), data_size=entry.size)
                header = member_header(entry)
            room = (limit - position - len(header)) // BLOCK * BLOCK
            is_cut = entry.data_size > room
            if is_cut:
                # It grew beyond what the plan has room for: its beginning is stored, and the warning says so.
                entry = cut(entry, room)
                header = member_header(entry)
            start = position + len(header)
            end = start + entry.data_size
            count = read_content(fd, entry, 0, self._buffer[start:end])
            is_torn = is_cut or count < entry.data_size or not same_content(before, os.fstat(fd))
            if not is_torn:
                break
        if is_torn:
            self._changed(entry)
        self._buffer[position:start] = header
        stop = position + len(header) + padded(entry.data_size)
        self._buffer[end:stop] = bytes(stop - end)
        return stop, msgspec.structs.replace(entry, data_offset=start)

    def _read_segment(self, file: LargeFile, index: int) -> None:
        start = index * SEGMENT_SIZE
        size = min(SEGMENT_SIZE, file.entry.data_size - start)
        with Stopwatch() as watch:
            for step in range(0, size, READ_STEP):
                self._crew.check()
                out = self._buffer[step : min(step + READ_STEP, size)]
                file.is_short |= read_content(file.fd, file.entry, start + step, out) < len(out)
            self._buffer[size : padded(size)] = bytes(padded(size) - size)
        self._meter.add(Stage.PACK, size, 0, watch.seconds, size if file.entry.model else 0)
        file.segments[index] = self._sink.put(self._buffer[: padded(size)], ChunkKind.SEGMENT, self._encoder)

    def _changed(self, entry: Entry) -> None:
        message = "changed while it was read, and is stored as last read"
        self._warnings.add("FILE_CHANGED", message, entry.path)

    def _unreadable(self, path: bytes, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            self._warnings.add("FILE_VANISHED", "vanished while the snapshot was made; not saved", path)
        else:
            self._warnings.add("FILE_UNREADABLE", f"could not be read and was not saved: {error.strerror}", path)
