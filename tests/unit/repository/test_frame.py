"""Frames: what the encoder writes comes back, and nothing else is accepted."""

from __future__ import annotations

import io
import random
import subprocess
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.errors import DataLossError
from agent.repository import frame
from agent.repository.frame import BLOCK_SIZE, END, HEADER, Encoder, max_stored_size

_ENCODER = Encoder()
_OUT = memoryview(bytearray(BLOCK_SIZE))
_CODED = memoryview(bytearray(BLOCK_SIZE))


def encode(raw: bytes) -> bytes:
    return b"".join(_ENCODER.pieces(memoryview(bytearray(raw))))


def decode(stored: bytes, raw_size: int) -> bytes:
    """What both ways of reading a frame give, which must be the same; or both refuse it."""
    try:
        raw = decode_stored(stored, raw_size)
    except DataLossError:
        with pytest.raises(DataLossError):
            decode_received(stored, raw_size)
        raise
    assert decode_received(stored, raw_size) == raw
    return raw


def decode_stored(stored: bytes, raw_size: int) -> bytes:
    return b"".join(bytes(frame.decode(block, _OUT)) for block in frame.blocks(memoryview(stored), raw_size))


def decode_received(stored: bytes, raw_size: int) -> bytes:
    arriving = io.BytesIO(stored)

    def fill(room: memoryview) -> None:
        assert arriving.readinto(room) == len(room)

    blocks = frame.received(fill, len(stored), raw_size, lambda: _OUT, _CODED)
    return b"".join(bytes(block) for block in blocks)


def content(size: int, seed: int, compressible: bool) -> bytes:
    return b"gpusnap " * (size // 8) + b"x" * (size % 8) if compressible else random.Random(seed).randbytes(size)


@settings(max_examples=25, deadline=None)
@given(
    size=st.one_of(
        st.integers(0, 70_000),
        st.sampled_from(
            [BLOCK_SIZE + delta for delta in (-1, 0, 1)] + [2 * BLOCK_SIZE + delta for delta in (-1, 0, 1)]
        ),
    ),
    seed=st.integers(0, 3),
    compressible=st.booleans(),
)
@example(size=0, seed=0, compressible=False)
@example(size=BLOCK_SIZE, seed=0, compressible=False)
@example(size=BLOCK_SIZE + 1, seed=0, compressible=True)
def test_what_is_encoded_comes_back(size: int, seed: int, compressible: bool) -> None:
    raw = content(size, seed, compressible)
    stored = encode(raw)
    assert decode(stored, size) == raw
    assert len(stored) <= max_stored_size(size)


def test_incompressible_bytes_are_stored_raw() -> None:
    raw = content(100_000, 1, compressible=False)
    assert len(encode(raw)) == max_stored_size(len(raw))


@pytest.mark.parametrize("size", [0, 1, 512, BLOCK_SIZE, BLOCK_SIZE + 1])
@pytest.mark.parametrize("compressible", [True, False])
def test_the_lz4_program_reads_frames(size: int, compressible: bool) -> None:
    raw = content(size, 2, compressible)
    # Two frames, one after another, as a restore with standard tools has them.
    done = subprocess.run(["lz4", "-dc"], input=encode(raw) * 2, capture_output=True, check=True, timeout=30)
    assert done.stdout == raw * 2


@settings(max_examples=150, deadline=None)
@given(data=st.data(), compressible=st.booleans(), size=st.integers(1, 3000))
def test_a_changed_frame_is_refused_or_has_the_size_it_should(
    data: st.DataObject, compressible: bool, size: int
) -> None:
    """What decodes to other bytes of the right size is found by the chunk id, never here."""
    stored = bytearray(encode(content(size, 3, compressible)))
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= data.draw(st.integers(1, 255))
    try:
        assert len(decode(bytes(stored), size)) == size
    except DataLossError:
        pass


@settings(max_examples=150, deadline=None)
@given(data=st.data(), compressible=st.booleans(), size=st.integers(1, 3000))
def test_a_truncated_or_extended_frame_is_refused(data: st.DataObject, compressible: bool, size: int) -> None:
    stored = encode(content(size, 4, compressible))
    with pytest.raises(DataLossError):
        decode(stored[: data.draw(st.integers(0, len(stored) - 1))], size)
    with pytest.raises(DataLossError):
        decode(stored + data.draw(st.binary(min_size=1, max_size=20)), size)


@pytest.mark.parametrize("claimed", [0, 1, 999, 1001, BLOCK_SIZE, BLOCK_SIZE + 1000])
@pytest.mark.parametrize("compressible", [True, False])
def test_a_frame_of_another_raw_size_is_refused(claimed: int, compressible: bool) -> None:
    with pytest.raises(DataLossError):
        decode(encode(content(1000, 5, compressible)), claimed)


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200), size=st.integers(1, 5000), well_formed=st.booleans())
def test_hostile_bytes_are_refused(body: bytes, size: int, well_formed: bool) -> None:
    stored = HEADER + len(body).to_bytes(4, "little") + body + END if well_formed else body
    try:
        assert len(decode(stored, size)) == size
    except DataLossError:
        pass


def test_a_lying_frame_takes_no_memory() -> None:
    # A block that claims 2 GiB, and one that would decompress to far more than a block.
    bomb = b"\x1f\x00\x01\x00" + b"\xff" * 100_000
    tracemalloc.start()
    try:
        for stored in (
            HEADER + (0x7FFFFFFF).to_bytes(4, "little") + b"x",
            HEADER + len(bomb).to_bytes(4, "little") + bomb,
        ):
            with pytest.raises(DataLossError):
                decode(stored + END, BLOCK_SIZE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
