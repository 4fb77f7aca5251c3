"""A segment on its way out that nobody holds: what is sent is read from its file once more."""

from __future__ import annotations

import os
from collections.abc import Iterator

from blake3 import blake3

from agent.repository.frame import BLOCK_SIZE, END, HEADER, max_stored_size, raw_word
from agent.repository.model import Entry
from agent.snapshot.source import read_content
from agent.storage.source import SourceLostError

PIECE = 256 << 10
"""Bytes that are read and sent at once, which is all that an upload holds. Divides a block."""


class SegmentSource:
    """The frame of a segment on which LZ4 gains nothing: all of its blocks are raw.

    Args:
        id_: the segment's, which what is sent must have.
        fd: the file; it is duplicated.
        entry: the file's entry.
        start: where in the file's stored content the segment begins.
        raw_size: its bytes, what it is padded with among them.
    """

    def __init__(self, id_: bytes, fd: int, entry: Entry, start: int, raw_size: int) -> None:
        self.size = max_stored_size(raw_size)
        self._id = id_
        self._fd = os.dup(fd)
        self._entry = entry
        self._start = start
        self._raw_size = raw_size
        self._is_closed = False

    def pieces(self) -> Iterator[memoryview]:
        """Yields the frame. Its end comes last, and only if the segment is still what it was."""
        buffer = memoryview(bytearray(PIECE))
        digest = blake3()
        yield memoryview(HEADER)
        for position in range(0, self._raw_size, PIECE):
            if position % BLOCK_SIZE == 0:
                yield memoryview(raw_word(min(BLOCK_SIZE, self._raw_size - position)))
            piece = buffer[: min(PIECE, self._raw_size - position)]
            self._read(position, piece)
            digest.update(piece)
            yield piece
        if digest.digest() != self._id:
            raise SourceLostError(f"{os.fsdecode(self._entry.path)} has changed")
        yield memoryview(END)

    def close(self) -> None:
        """Closes the file."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._fd)

    def _read(self, position: int, piece: memoryview) -> None:
        """Fills a piece, with zeros beyond the content's end: those that pad the segment, or a file that was cut."""
        content = piece[: max(min(len(piece), self._entry.data_size - self._start - position), 0)]
        try:
            read_content(self._fd, self._entry, self._start + position, content)
        except OSError as error:
            raise SourceLostError(f"{os.fsdecode(self._entry.path)} cannot be read: {error.strerror}") from error
        piece[len(content) :] = bytes(len(piece) - len(content))
