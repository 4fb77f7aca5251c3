"""Turns a fetched chunk into verified raw bytes."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator

from blake3 import blake3

from agent.errors import DataLossError
from agent.repository import frame
from agent.repository.model import MAX_CHUNK_SIZE, Chunk


class Decoder:
    """Decodes chunks. One per thread: it keeps one block, and a whole chunk once a pack was decoded."""

    def __init__(self) -> None:
        self._block = memoryview(bytearray(frame.BLOCK_SIZE))
        # Anonymous memory: pages are taken when first used, and used again for every pack.
        self._pack = memoryview(mmap.mmap(-1, MAX_CHUNK_SIZE))

    def pack(self, path: str, chunk: Chunk) -> memoryview:
        """Returns the raw bytes of a pack, verified; valid until the next call.

        Raises:
            DataLossError: the bytes are not those of the chunk.
        """
        with _mapped(path, chunk) as data:
            position = 0
            for block in frame.blocks(data, chunk.raw_size):
                room = self._pack[position : position + block.raw_size]
                raw = frame.decode(block, room)
                if block.is_raw:
                    room[:] = raw
                position += block.raw_size
        raw = self._pack[: chunk.raw_size]
        if blake3(raw).digest() != chunk.id:
            raise DataLossError("its bytes do not match its id")
        return raw

    def stream(self, path: str, chunk: Chunk, take: Callable[[int, memoryview], None]) -> None:
        """Hands the raw bytes of a chunk to ``take`` (position, bytes) block by block, before all are verified.

        Raises:
            DataLossError: the bytes are not those of the chunk; what was taken must not be kept.
        """
        hasher = blake3()
        with _mapped(path, chunk) as data:
            position = 0
            for block in frame.blocks(data, chunk.raw_size):
                raw = frame.decode(block, self._block)
                hasher.update(raw)
                take(position, raw)
                position += block.raw_size
        if hasher.digest() != chunk.id:
            raise DataLossError("its bytes do not match its id")


@contextlib.contextmanager
def _mapped(path: str, chunk: Chunk) -> Iterator[memoryview]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size != chunk.stored_size:
            raise DataLossError(f"its object has {size} bytes instead of {chunk.stored_size}")
        mapping = mmap.mmap(fd, size, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    # Blocks refer to the mapping until they are collected: it is unmapped with the last of them.
    yield memoryview(mapping)
