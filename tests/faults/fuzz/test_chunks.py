"""Stored objects that hold anything: the chunk's own bytes come out, or it is refused."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import cramjam
import msgspec
from hypothesis import strategies as st

from agent.errors import DataLossError
from agent.pipeline.memory import anonymous
from agent.repository.frame import BLOCK_SIZE, END, HEADER
from agent.repository.model import MAX_CHUNK_SIZE, Chunk
from agent.restore.blocks import Blocks
from agent.restore.decode import Decoder
from agent.restore.segment_writer import Take
from tests.support import forging
from tests.support.fuzz import fuzz
from tests.support.mutate import mutated

EACH = 40
ROOM = anonymous(MAX_CHUNK_SIZE)
DECODER = Decoder(ROOM, Blocks(ROOM))
SEEDS = st.integers(0, 2**64 - 1)


def content(size: int, chance: random.Random) -> bytes:
    """Returns bytes of which LZ4 shrinks some."""
    return b"".join(chance.choice((b"gpusnap " * 8, bytes(64), chance.randbytes(64))) for _ in range(-(-size // 64)))[
        :size
    ]


def decoded(stored: bytes, chunk: Chunk) -> bytes:
    """Decodes an object in all ways; what is handed out is the chunk, or it is refused in all."""
    (result,) = {outcome(way, stored, chunk) for way in (as_pack, as_stream, received)}
    if result is None:
        raise DataLossError("refused")
    return result


def outcome(way: Callable[[bytes, Chunk, Take], None], stored: bytes, chunk: Chunk) -> bytes | None:
    """Returns what is handed out; ``None`` if it was refused."""
    pieces: list[bytes] = []
    try:
        way(stored, chunk, lambda _, raw: pieces.append(bytes(raw)))
    except DataLossError:
        return None
    finally:
        assert sum(map(len, pieces)) <= chunk.raw_size
    return b"".join(pieces)


def as_pack(stored: bytes, chunk: Chunk, take: Take) -> None:
    take(0, DECODER.pack(memoryview(stored), chunk))


def as_stream(stored: bytes, chunk: Chunk, take: Take) -> None:
    DECODER.stream(memoryview(stored), chunk, take, at_page=True)


def received(stored: bytes, chunk: Chunk, take: Take) -> None:
    if len(stored) != chunk.stored_size:
        raise DataLossError("whoever receives an object knows its size")
    arriving = io.BytesIO(stored)

    def fill(room: memoryview) -> None:
        assert arriving.readinto(room) == len(room)

    DECODER.receive(fill, chunk, take)


@fuzz(400, each=EACH, seed=SEEDS, size=st.integers(1, 3000))
def test_changed_objects(seed: int, size: int) -> None:
    chance = random.Random(seed)
    raw = content(size, chance)
    chunk = forging.chunk(raw)
    stored = forging.frame(raw)
    assert decoded(stored, chunk) == raw
    for _ in range(EACH):
        changed = mutated(stored, chance)
        # The size of the object in the table agrees with what came, or it would be refused for that alone.
        row = msgspec.structs.replace(chunk, stored_size=len(changed))
        try:
            assert decoded(changed, row) == raw
        except DataLossError:
            assert changed != stored


@fuzz(60, seed=SEEDS, size=st.sampled_from([BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE + 7]))
def test_changed_objects_of_several_blocks(seed: int, size: int) -> None:
    chance = random.Random(seed)
    raw = (content(4096, chance) * (size // 4096 + 1))[:size]
    stored = mutated(forging.frame(raw), chance)
    row = msgspec.structs.replace(forging.chunk(raw), stored_size=len(stored))
    try:
        assert decoded(stored, row) == raw
    except DataLossError:
        assert stored != forging.frame(raw)


BLOCKS = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=200).map(lambda raw: bytes(cramjam.lz4.compress_block(raw, store_size=False))),
    st.builds(
        lambda byte, count: b"\x1f\x00\x01\x00" + bytes([byte]) * count, st.integers(0, 255), st.integers(0, 999)
    ),
)
FRAMES = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda header, blocks, end: header + b"".join(blocks) + end,
        st.sampled_from([HEADER, HEADER[:-1], bytes.fromhex("04224d186c40ff"), b""]),
        st.lists(
            st.builds(
                lambda block, more, flag: ((len(block) + more) % 2**31 | flag << 31).to_bytes(4, "little") + block,
                BLOCKS,
                st.sampled_from([0, 0, 0, 1, -1, 2**30]),
                st.integers(0, 1),
            ),
            max_size=3,
        ),
        st.sampled_from([END, b"", END + b"x", b"\1\0\0\0"]),
    ),
)


@fuzz(3000, stored=FRAMES, raw_size=st.one_of(st.integers(1, 300), st.sampled_from([BLOCK_SIZE, 64 << 20])))
def test_any_object(stored: bytes, raw_size: int) -> None:
    row = Chunk(bytes(32), raw_size, len(stored), forging.chunk(b"x").kind)
    try:
        decoded(stored, row)
        raise AssertionError("nobody has drawn the content of that hash")
    except DataLossError as error:
        assert "\n" not in error.message
