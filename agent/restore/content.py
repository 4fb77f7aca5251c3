"""Compares the content of local files with what is stored, and copies it. Works on open files, in any process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from blake3 import blake3

from agent.pipeline.memory import anonymous
from agent.repository.extents import content_spans, paired_spans
from agent.repository.model import Entry, padded

BLOCK_SIZE = 4 << 20
"""Content is read in blocks of this many bytes, and a cancel is seen between them."""

_NO_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class ContentReader:
    """Reads content through one block of memory. One per thread.

    Args:
        check: called between blocks; raises when all shall stop.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._block = anonymous(BLOCK_SIZE)

    def blocks(self, fd: int, entry: Entry, start: int, size: int) -> Iterator[memoryview]:
        """Yields ``size`` bytes of a file's stored content from ``start``, or fewer if the file is shorter."""
        for offset, length in content_spans(entry, start, size):
            end = offset + length
            while offset < end:
                self._check()
                count = os.preadv(fd, [self._block[: min(end - offset, BLOCK_SIZE)]], offset)
                if count == 0:
                    return
                yield self._block[:count]
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

    def copy(self, fd: int, entry: Entry, start: int, to_fd: int, to: Entry, to_start: int, size: int) -> None:
        """Copies stored content of one file to another, by sharing its blocks where the file system can.

        Raises:
            OSError: it failed; what is missing in the first file is not copied.
        """
        pairs = paired_spans(content_spans(entry, start, size), content_spans(to, to_start, size))
        for offset, to_offset, length in pairs:
            while length > 0:
                self._check()
                count = self._copy_some(fd, offset, to_fd, to_offset, length)
                if count == 0:
                    return
                offset, to_offset, length = offset + count, to_offset + count, length - count

    def _copy_some(self, fd: int, offset: int, to_fd: int, to_offset: int, length: int) -> int:
        try:
            return os.copy_file_range(fd, to_fd, length, offset, to_offset)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
        count = os.preadv(fd, [self._block[: min(length, BLOCK_SIZE)]], offset)
        done = 0
        while done < count:
            done += os.pwrite(to_fd, self._block[done:count], to_offset + done)
        return count


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
