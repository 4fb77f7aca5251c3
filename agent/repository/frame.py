"""Chunks as LZ4 frames: the coding of every stored object.

A frame is HEADER, then blocks of 4 MiB of raw bytes (the last may be shorter), then END. A block is a 32-bit
little-endian size and that many bytes; the size's highest bit says that they are raw. The layout is the LZ4 frame
format 1.6 with independent blocks and without checksums, so ``lz4 -d`` reads it; integrity is the chunk id's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cramjam
import msgspec

from agent.errors import DataLossError

BLOCK_SIZE = 4 << 20
"""Raw bytes of every block but the last; the largest that the LZ4 frame format knows."""

HEADER = bytes.fromhex("04224d18607073")
"""Magic, FLG (version 01, independent blocks), BD (4 MiB), header checksum."""

END = bytes(4)
WORD = 4
"""Bytes of what stands before each block."""

_RAW = 1 << 31
_WRONG_HEADER = "its LZ4 frame has a wrong header"
_WRONG_END = "its LZ4 frame does not end where it should"


class Block(msgspec.Struct, frozen=True):
    """One block of a frame, still coded."""

    data: memoryview
    is_raw: bool
    raw_size: int


def max_stored_size(raw_size: int) -> int:
    """Returns the most bytes that a frame of ``raw_size`` raw bytes can take."""
    return len(HEADER) + raw_size + WORD * -(-raw_size // BLOCK_SIZE) + len(END)


class Encoder:
    """Codes raw bytes as a frame. Keeps one output block, so use one encoder per thread."""

    def __init__(self) -> None:
        self._block = memoryview(bytearray(BLOCK_SIZE + BLOCK_SIZE // 255 + 64))

    def pieces(self, raw: memoryview) -> Iterator[bytes | memoryview]:
        """Yields the frame of ``raw`` piece by piece. They are parts of ``raw``, which is overwritten with them."""
        yield HEADER
        for start in range(0, len(raw), BLOCK_SIZE):
            block = raw[start : start + BLOCK_SIZE]
            size = cramjam.lz4.compress_block_into(block, self._block, store_size=False)
            if size < len(block):
                block[:size] = self._block[:size]
                yield size.to_bytes(WORD, "little")
                yield block[:size]
            else:
                yield raw_word(len(block))
                yield block
        yield END


def encode(raw: bytes) -> bytes:
    """Returns the frame of bytes that are few."""
    return b"".join(Encoder().pieces(memoryview(bytearray(raw))))


def raw_word(size: int) -> bytes:
    """Returns what stands before a raw block of ``size`` bytes."""
    return (size | _RAW).to_bytes(WORD, "little")


def blocks(frame: memoryview, raw_size: int) -> Iterator[Block]:
    """Yields the blocks of a frame that must hold exactly ``raw_size`` raw bytes.

    Raises:
        DataLossError: the frame is anything else than an encoder would have written.
    """
    if frame[: len(HEADER)] != HEADER:
        raise DataLossError(_WRONG_HEADER)
    position = len(HEADER)
    for start in range(0, raw_size, BLOCK_SIZE):
        expected = min(BLOCK_SIZE, raw_size - start)
        size, is_raw = _block_size(frame[position : position + WORD], expected)
        position += WORD
        data = frame[position : position + size]
        if len(data) != size:
            raise _wrong_block()
        position += size
        yield Block(data, is_raw, expected)
    if frame[position:] != END:
        raise DataLossError(_WRONG_END)


def received(
    fill: Callable[[memoryview], None],
    stored_size: int,
    raw_size: int,
    next_room: Callable[[], memoryview],
    coded: memoryview,
) -> Iterator[memoryview]:
    """Yields the raw bytes of a frame block by block while it arrives; those stored raw arrive where they stay.

    Args:
        fill: gets the next bytes of the frame, as many as the memory has room for.
        stored_size: bytes of the frame.
        raw_size: raw bytes that it must hold exactly.
        next_room: returns the memory for the next block.
        coded: memory for one block that is compressed.

    Raises:
        DataLossError: the frame is anything else than an encoder would have written.
    """
    left = stored_size

    def next_bytes(room: memoryview) -> memoryview:
        nonlocal left
        left -= len(room)
        if left < 0:
            raise _wrong_block()
        fill(room)
        return room

    small = memoryview(bytearray(len(HEADER)))
    if next_bytes(small) != HEADER:
        raise DataLossError(_WRONG_HEADER)
    for start in range(0, raw_size, BLOCK_SIZE):
        expected = min(BLOCK_SIZE, raw_size - start)
        size, is_raw = _block_size(next_bytes(small[:WORD]), expected)
        room = next_room()
        block = Block(next_bytes((room if is_raw else coded)[:size]), is_raw, expected)
        yield decode(block, room)
    if left != len(END) or next_bytes(small[: len(END)]) != END:
        raise DataLossError(_WRONG_END)


def decode(block: Block, out: memoryview) -> memoryview:
    """Returns the raw bytes of a block: a part of ``out``, or the block itself if it is raw.

    Raises:
        DataLossError: it is not valid LZ4, or holds another number of bytes.
    """
    if block.is_raw:
        return block.data
    room = out[: block.raw_size]
    try:
        size = cramjam.lz4.decompress_block_into(block.data, room, output_len=block.raw_size)
    except cramjam.DecompressionError as error:
        raise DataLossError("its LZ4 data cannot be decompressed") from error
    if size != block.raw_size:
        raise DataLossError("its LZ4 data has a wrong size")
    return room


def _block_size(word: memoryview, raw_size: int) -> tuple[int, bool]:
    """Returns how many bytes a block of so many raw ones takes, and whether it is stored raw, from its first word."""
    number = int.from_bytes(word, "little")
    size, is_raw = number & (_RAW - 1), bool(number & _RAW)
    if size == 0 or size > raw_size or (is_raw and size != raw_size):
        raise _wrong_block()
    return size, is_raw


def _wrong_block() -> DataLossError:
    return DataLossError("its LZ4 frame is truncated or has a wrong block size")
