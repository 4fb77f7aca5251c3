"""Directories that lie in one pack with everything below them: such a tree can be built elsewhere and renamed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agent.repository.model import Entry, EntryType

MAX_HEIGHT = 32
"""Levels of directories that a tree has at most: all of one path are open while it is built."""


class _Open(msgspec.Struct):
    """A directory that may have more below it; ``height`` counts the levels of directories from it on."""

    place: int
    prefix: bytes
    height: int = 1


def whole_trees(run: Sequence[Entry]) -> list[range]:
    """Returns the largest trees that lie wholly within a run of entries in archive order.

    Each is given by the places of its entries in the run, its topmost directory first. A directory to which the run's
    last entry belongs may go on behind the run, and is not among them.
    """
    trees: list[range] = []
    path: list[_Open] = []
    for place, entry in enumerate(run):
        while path and not entry.path.startswith(path[-1].prefix):
            _end(path, place, trees)
        if entry.type is EntryType.DIRECTORY:
            path.append(_Open(place, entry.path + b"/" if entry.path else b""))
    return trees


def _end(path: list[_Open], end: int, trees: list[range]) -> None:
    """Ends the deepest directory of a path before place ``end``."""
    ended = path.pop()
    if path:
        path[-1].height = max(path[-1].height, ended.height + 1)
    if ended.height <= MAX_HEIGHT:
        while trees and trees[-1].start > ended.place:
            trees.pop()
        trees.append(range(ended.place, end))
