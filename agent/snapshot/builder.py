"""Builds one chunk: reads files, hashes, compresses. In the snapshot's process or in a worker process."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
from blake3 import blake3

from agent.pipeline.beneath import Beneath
from agent.pipeline.crew import Stopwatch
from agent.pipeline.occupation import processor_seconds
from agent.repository.frame import Encoder
from agent.repository.model import BLOCK, MAX_CHUNK_SIZE, Entry, EntryType, ManifestWarning, padded
from agent.repository.tar import member_header
from agent.snapshot.plan import PackPlan
from agent.snapshot.source import (
    READ_ATTEMPTS,
    changed,
    cut,
    open_file,
    read_content,
    refreshed,
    same_content,
    unreadable,
    unsure,
)
from agent.snapshot.task import BuiltPack, BuiltSegment, Compressed, Stored
from agent.storage.engine import Outgoing

READ_STEP = 4 << 20
"""Segments are read in steps of this many bytes, and a cancel is seen between them."""


class ChunkBuilding(Protocol):
    """Whatever builds the chunks of one thread. All may raise GpusnapError, and WorkerDiedError: then begin again."""

    def pack(self, plan: PackPlan) -> BuiltPack:
        """Reads the files of a pack and builds it."""
        ...

    def segment(self, fd: int, entry: Entry, start: int, size: int) -> BuiltSegment:
        """Builds a segment of a large file from its stored content.

        Raises:
            OSError: the file cannot be read.
        """
        ...

    def compress(self) -> Compressed:
        """Compresses what was built last, once."""
        ...

    def store(self, outgoing: Outgoing) -> Stored:
        """Writes what was compressed."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


class ChunkBuilder:
    """Builds chunks in this process. One per thread: it keeps a buffer of one chunk and the directories that are open.

    Args:
        check: called often; raises when all shall stop.
    """

    def __init__(self, root_fd: int, check: Callable[[], None]) -> None:
        self._beneath = Beneath(root_fd)
        self._check = check
        # Anonymous memory: pages are taken when first used, and used again for every chunk.
        self._buffer = memoryview(mmap.mmap(-1, MAX_CHUNK_SIZE))
        self._size = 0
        self._encoder = Encoder()
        self._compressed: list[bytes | memoryview] = []
        self._problems: list[ManifestWarning] = []

    def close(self) -> None:
        """Closes the open directories."""
        self._beneath.forget()

    def pack(self, plan: PackPlan) -> BuiltPack:
        """Reads the files of a pack and builds it; those that cannot be read are left out."""
        on_processor, begun = processor_seconds(), time.monotonic()
        self._problems = []
        self._size, kept, dropped = self._fill(plan)
        read = time.monotonic()
        id_ = self._hash() if self._size else b""
        return BuiltPack(
            id_,
            self._size,
            tuple(kept),
            dropped,
            tuple(self._problems),
            read - begun,
            time.monotonic() - read,
            processor_seconds() - on_processor,
        )

    def segment(self, fd: int, entry: Entry, start: int, size: int) -> BuiltSegment:
        """Builds a segment of a large file."""
        on_processor, begun = processor_seconds(), time.monotonic()
        is_short = False
        for step in range(0, size, READ_STEP):
            self._check()
            out = self._buffer[step : min(step + READ_STEP, size)]
            is_short |= read_content(fd, entry, start + step, out) < len(out)
        self._size = padded(size)
        self._buffer[size : self._size] = bytes(self._size - size)
        read = time.monotonic()
        id_ = self._hash()
        hashed = time.monotonic()
        return BuiltSegment(id_, self._size, is_short, read - begun, hashed - read, processor_seconds() - on_processor)

    def compress(self) -> Compressed:
        """Compresses what was built last, in its place."""
        on_processor = processor_seconds()
        self._compressed = []
        with Stopwatch() as watch:
            for piece in self._encoder.pieces(self._buffer[: self._size]):
                self._check()
                self._compressed.append(piece)
        size = sum(map(len, self._compressed))
        return Compressed(size, watch.seconds, processor_seconds() - on_processor)

    def store(self, outgoing: Outgoing) -> Stored:
        """Writes what was compressed."""
        return self.write(outgoing.write)

    def write(self, write: Callable[[bytes | memoryview], object]) -> Stored:
        """Writes what was compressed, piece by piece."""
        on_processor = processor_seconds()
        with Stopwatch() as watch:
            for piece in self._compressed:
                self._check()
                write(piece)
        return Stored(watch.seconds, processor_seconds() - on_processor)

    def _hash(self) -> bytes:
        return blake3(self._buffer[: self._size]).digest()

    def _fill(self, plan: PackPlan) -> tuple[int, list[Entry], frozenset[int]]:
        position = 0
        reserved = sum(plan.bounds)
        kept: list[Entry] = []
        dropped: set[int] = set()
        for entry, bound in zip(plan.entries, plan.bounds, strict=True):
            self._check()
            reserved -= bound
            if entry.type is EntryType.FILE:
                group = entry.hard_link_group
                added = self._add_file(entry, position, MAX_CHUNK_SIZE - reserved)
                if added is None:
                    dropped.add(group)
                    continue
                position, entry = added
                if entry.hard_link_group != group:
                    dropped.add(group)
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
            self._problems.append(unreadable(entry.path, error))
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
            entry = unsure(entry)
            self._problems.append(changed(entry.path))
        self._buffer[position:start] = header
        stop = position + len(header) + padded(entry.data_size)
        self._buffer[end:stop] = bytes(stop - end)
        return stop, msgspec.structs.replace(entry, data_offset=start)
