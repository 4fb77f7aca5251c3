"""Writes blocks into an unfinished large file, past the page cache if asked, and else on to the disk at once."""

from __future__ import annotations

import errno
import fcntl
import os

from agent.pipeline.writeback import begin_writeback
from agent.repository.extents import content_spans
from agent.repository.model import Entry

ALIGNMENT = 4096
"""Offsets, sizes and addresses of direct writes are multiples of this, which suits every disk in use."""

_CANNOT_RESERVE = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class SegmentFile:
    """An unfinished large file that blocks are written into, in any order and by several threads.

    Args:
        fd: a descriptor for writing; closed with this object.
        bypass: write past the page cache, where the file system can.
    """

    def __init__(self, fd: int, entry: Entry, bypass: bool) -> None:
        self._fd = fd
        self._entry = entry
        # The runs of a sparse file begin anywhere.
        self._is_direct = bypass and not entry.sparse and _set_direct(fd, True)

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self._fd)

    def write(self, start: int, content: memoryview) -> None:
        """Writes stored content that begins at ``start`` to where it belongs; past the cache from a page's begin on."""
        if self._is_direct and start % ALIGNMENT == 0:
            self._write_direct(start, content)
        else:
            self._buffered()
            write_content(self._fd, self._entry, start, content)
            if not self._entry.sparse:
                begin_writeback(self._fd, start, len(content))

    def _write_direct(self, start: int, content: memoryview) -> None:
        whole = len(content) // ALIGNMENT * ALIGNMENT
        done = 0
        try:
            while done < whole:
                done += os.pwrite(self._fd, content[done:whole], start + done)
                if done % ALIGNMENT:
                    break
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        if done < len(content):
            # The file's last bytes, or a file system that takes direct writes only sometimes.
            self._buffered()
            write_content(self._fd, self._entry, start + done, content[done:])

    def _buffered(self) -> None:
        if self._is_direct:
            _set_direct(self._fd, False)
            self._is_direct = False


def reserve(fd: int, entry: Entry, needs_room: bool) -> None:
    """Gives a new large file its size, and all its room where the file system can.

    Args:
        needs_room: fail if there is not so much room.

    Raises:
        OSError: it cannot have it.
    """
    if entry.sparse:
        os.ftruncate(fd, entry.size)
        return
    try:
        os.posix_fallocate(fd, 0, entry.size)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE and (needs_room or error.errno not in _FULL):
            raise
        # What it got of it goes back.
        os.ftruncate(fd, 0)
        os.ftruncate(fd, entry.size)


def write_content(fd: int, entry: Entry, start: int, content: memoryview) -> None:
    """Writes stored content that begins at ``start`` to where it belongs in the file."""
    if not entry.sparse:
        _write_at(fd, start, content)
        return
    done = 0
    for offset, length in content_spans(entry, start, len(content)):
        _write_at(fd, offset, content[done : done + length])
        done += length


def _write_at(fd: int, offset: int, content: memoryview) -> None:
    while content:
        count = os.pwrite(fd, content, offset)
        offset += count
        content = content[count:]


def _set_direct(fd: int, is_direct: bool) -> bool:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if is_direct else flags & ~os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True
