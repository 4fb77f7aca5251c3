"""Whether stored bytes are those of a chunk."""

from __future__ import annotations

from blake3 import blake3

from agent.errors import DataLossError
from agent.repository import frame
from agent.repository.model import Chunk


def check_chunk(stored: memoryview, chunk: Chunk, block: memoryview) -> None:
    """Makes sure that an object's bytes are those of a chunk.

    Args:
        block: room for one block of raw bytes (``frame.BLOCK_SIZE``), all the memory that it takes.

    Raises:
        DataLossError: they are not; the message goes on after the chunk's name.
    """
    if len(stored) != chunk.stored_size:
        raise DataLossError(f"its object has not the {chunk.stored_size:,} bytes that were stored")
    hasher = blake3()
    for coded in frame.blocks(stored, chunk.raw_size):
        hasher.update(frame.decode(coded, block))
    if hasher.digest() != chunk.id:
        raise DataLossError("its bytes do not match its id")
