"""Turns a fetched chunk into verified raw bytes."""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from agent.errors import DataLossError
from agent.repository import frame
from agent.repository.model import Chunk
from agent.restore.blocks import Blocks


class Decoder:
    """Decodes chunks. One per thread.

    Args:
        room: for the largest pack.
        blocks: for segments.
    """

    def __init__(self, room: memoryview, blocks: Blocks) -> None:
        self._blocks = blocks
        self._pack = room
        # A segment passes through the blocks, and its compressed ones through the other end.
        self._coded = room[-frame.BLOCK_SIZE :]

    def pack(self, stored: memoryview, chunk: Chunk) -> memoryview:
        """Returns the raw bytes of a pack from its stored ones, verified, in the room.

        Raises:
            DataLossError: the bytes are not those of the chunk.
        """
        _check_size(stored, chunk)
        position = 0
        for block in frame.blocks(stored, chunk.raw_size):
            room = self._pack[position : position + block.raw_size]
            raw = frame.decode(block, room)
            if block.is_raw:
                room[:] = raw
            position += block.raw_size
        raw = self._pack[: chunk.raw_size]
        _check_id(blake3(raw).digest(), chunk)
        return raw

    def stream(
        self, stored: memoryview, chunk: Chunk, take: Callable[[int, memoryview], None], at_page: bool = False
    ) -> None:
        """Hands the raw bytes of a chunk to ``take`` (position, bytes) block by block, before all are verified.

        A block stays as it is until ``take`` was called ``WRITES_AT_ONCE`` times more.

        Args:
            at_page: hand out only memory that begins at a page, which takes a copy of blocks that are stored raw.

        Raises:
            DataLossError: the bytes are not those of the chunk; what was taken must not be kept.
        """
        _check_size(stored, chunk)
        hasher = blake3()
        position = 0
        for block in frame.blocks(stored, chunk.raw_size):
            room = self._blocks.next()
            raw = frame.decode(block, room)
            hasher.update(raw)
            if at_page and block.is_raw:
                room[: len(raw)] = raw
                raw = room[: len(raw)]
            take(position, raw)
            position += block.raw_size
        _check_id(hasher.digest(), chunk)

    def receive(
        self, fill: Callable[[memoryview], None], chunk: Chunk, take: Callable[[int, memoryview], None]
    ) -> None:
        """Does what ``stream`` does with a chunk that is still arriving; all memory it hands out begins at a page.

        Args:
            fill: gets the next stored bytes, as many as the memory has room for.

        Raises:
            DataLossError: as ``stream``; what ``fill`` raises goes through.
        """
        hasher = blake3()
        position = 0
        for raw in frame.received(fill, chunk.stored_size, chunk.raw_size, self._blocks.next, self._coded):
            hasher.update(raw)
            take(position, raw)
            position += len(raw)
        _check_id(hasher.digest(), chunk)


def _check_size(stored: memoryview, chunk: Chunk) -> None:
    if len(stored) != chunk.stored_size:
        raise DataLossError(f"its object has not the {chunk.stored_size} bytes that were stored")


def _check_id(digest: bytes, chunk: Chunk) -> None:
    if digest != chunk.id:
        raise DataLossError("its bytes do not match its id")
