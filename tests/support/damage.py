"""Ways in which a stored object gets damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cramjam

from tests.support import forging


def flipped(data: bytes, place: int) -> bytes:
    """Returns an object's bytes with one bit turned: at a place or, in a chunk, at the next one that tells.

    LZ4 can say the same in many ways: zeros may be copied from any zeros before them.
    """
    content = _content(data)
    while True:
        broken = data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
        if content is None or _content(broken) != content:
            return broken
        place = (place + 1) % len(data)


def _content(data: bytes) -> bytes | None:
    """Returns what is in a chunk; None if it is none, or a broken one."""
    try:
        return bytes(cramjam.lz4.decompress(data))
    except cramjam.DecompressionError:
        return None


def flip(path: Path) -> None:
    """Turns one bit in the middle."""
    data = path.read_bytes()
    path.write_bytes(flipped(data, len(data) // 2))


def truncate(path: Path) -> None:
    """Cuts the last byte off."""
    os.truncate(path, path.stat().st_size - 1)


def extend(path: Path) -> None:
    """Appends a byte."""
    with path.open("ab") as file:
        file.write(b"\0")


def empty(path: Path) -> None:
    """Cuts everything off."""
    os.truncate(path, 0)


def replace_by_another(path: Path) -> None:
    """Puts the frame of other bytes there."""
    path.write_bytes(forging.frame(b"z" * 512))


DAMAGES: list[Callable[[Path], None]] = [flip, truncate, extend, empty, replace_by_another, Path.unlink]
"""All of them."""
