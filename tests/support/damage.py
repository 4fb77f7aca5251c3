"""Ways in which a stored object gets damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.support import forging


def flip(path: Path) -> None:
    """Turns one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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
