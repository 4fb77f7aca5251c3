"""Reads the content of local files, compares it with what is stored, and shares it. On open files, in any process."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator

from blake3 import blake3

from agent.errors import DataLossError
from agent.repository.extents import content_spans
from agent.repository.frame import BLOCK_SIZE
from agent.repository.model import Entry, padded
from agent.restore.blocks import Blocks

_FICLONERANGE = 0x4020940D
"""Of <linux/fs.h>, with a ``file_clone_range`` of four numbers."""


class ContentReader:
    """Reads content block by block. One per thread.

    Args:
        blocks: what it reads into.
        check: called between blocks; raises when all shall stop.
    """

    def __init__(self, blocks: Blocks, check: Callable[[], None]) -> None:
        self._blocks = blocks
        self._check = check

    def blocks(self, fd: int, entry: Entry, start: int, size: int) -> Iterator[memoryview]:
        """Yields ``size`` bytes of a file's stored content from ``start``, or fewer if the file is shorter.

        A block stays as it is until ``WRITES_AT_ONCE`` more were yielded.
        """
        for offset, length in content_spans(entry, start, size):
            end = offset + length
            while offset < end:
                self._check()
                block = self._blocks.next()
                count = os.preadv(fd, [block[: end - offset]], offset)
                if count == 0:
                    return
                yield block[:count]
                offset += count

    def segment_id(self, fd: int, entry: Entry, start: int, size: int) -> bytes:
        """Returns the id of the chunk that a file holds where its entry says; empty if the file is too short."""
        hasher = blake3()
        left = size
        for block in self.blocks(fd, entry, start, size):
            hasher.update(block)
            left -= len(block)
        hasher.update(bytes(padded(size) - size))
        return b"" if left else hasher.digest()

    def stream(
        self, fd: int, entry: Entry, start: int, size: int, chunk_id: bytes, take: Callable[[int, memoryview], None]
    ) -> None:
        """Hands the content of a chunk to ``take`` (position, bytes) block by block, before all of it is verified.

        A block stays as it is until ``take`` was called ``WRITES_AT_ONCE`` times more.

        Raises:
            DataLossError: it is not the content of the chunk; what was taken must not be kept.
            OSError: it cannot be read.
        """
        hasher = blake3()
        position = 0
        for block in self.blocks(fd, entry, start, size):
            hasher.update(block)
            take(position, block)
            position += len(block)
        padding = bytes(padded(size) - size)
        hasher.update(padding)
        # To a longer file with the same chunk they are content.
        take(position, memoryview(padding))
        if hasher.digest() != chunk_id:
            raise DataLossError("it is not what it was")


def share(fd: int, start: int, to_fd: int, to_start: int, size: int) -> bool:
    """Lets a range of one file share the blocks of another's, where the file system can; says whether it does."""
    try:
        fcntl.ioctl(to_fd, _FICLONERANGE, struct.pack("qQQQ", fd, start, size, to_start))
    except OSError:
        return False
    return True


def holds_content(fd: int, entry: Entry, content: memoryview) -> bool:
    """Says whether a small file holds this stored content, and nothing elsewhere."""
    position = 0
    for offset, length in content_spans(entry, 0, len(content)):
        if os.pread(fd, length, offset) != bytes(content[position : position + length]):
            return False
        position += length
    return are_holes_empty(fd, entry)


def are_holes_empty(fd: int, entry: Entry) -> bool:
    """Says whether a file has nothing but zeros where its entry has holes."""
    if not entry.sparse:
        return True
    begin = 0
    for extent in (*entry.extents, None):
        end = entry.size if extent is None else extent.offset
        if not _is_zero(fd, begin, end):
            return False
        begin = end if extent is None else extent.offset + extent.length
    return True


def next_data(fd: int, offset: int, end: int) -> int:
    """Returns where data begins at or after an offset, at most ``end``; room that was never written has none."""
    try:
        return min(os.lseek(fd, offset, os.SEEK_DATA), end)
    except OSError as error:
        # A file system that does not tell has data everywhere.
        return end if error.errno == errno.ENXIO else offset


def _is_zero(fd: int, begin: int, end: int) -> bool:
    while (begin := next_data(fd, begin, end)) < end:
        piece = os.pread(fd, min(end - begin, BLOCK_SIZE), begin)
        if piece.strip(b"\0") or not piece:
            return False
        begin += len(piece)
    return True
