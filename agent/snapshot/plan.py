"""Groups scanned entries into packs and large files. Pure: the same tree gives the same plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from blake3 import blake3

from agent.repository.model import MAX_CHUNK_SIZE, Entry, EntryType
from agent.repository.tar import member_bound

MEAN_PACK_SIZE = 16 << 20
"""Packs are cut so that they average this many bytes."""

MAX_PACK_ENTRIES = 16384
"""A pack has no more entries, so that memory is bounded however small the files are."""


class PackPlan(msgspec.Struct, frozen=True):
    """Small entries that go into one pack, in archive order, and the most bytes that each member can take."""

    entries: list[Entry]
    bounds: list[int]


class LargePlan(msgspec.Struct, frozen=True):
    """One file that gets segments of its own."""

    entry: Entry


def plan(entries: Iterable[Entry], large_file_size: int) -> Iterator[PackPlan | LargePlan]:
    """Yields packs and large files in archive order.

    A pack ends after an entry whose path's hash says so, so a changed file moves one pack and not all that follow.
    """
    pack: list[Entry] = []
    bounds: list[int] = []
    size = 0
    for entry in entries:
        is_large = entry.type is EntryType.FILE and entry.data_size >= large_file_size
        bound = 0 if is_large else member_bound(entry)
        if pack and (is_large or size + bound > MAX_CHUNK_SIZE or len(pack) == MAX_PACK_ENTRIES):
            yield PackPlan(pack, bounds)
            pack, bounds, size = [], [], 0
        if is_large:
            yield LargePlan(entry)
            continue
        pack.append(entry)
        bounds.append(bound)
        size += bound
        if _ends_pack(entry.path, bound):
            yield PackPlan(pack, bounds)
            pack, bounds, size = [], [], 0
    if pack:
        yield PackPlan(pack, bounds)


def _ends_pack(path: bytes, size: int) -> bool:
    """Says whether a pack ends after this entry: with a chance of its size by the mean, decided by its path alone."""
    draw = int.from_bytes(blake3(path).digest(8), "big")
    return draw * MEAN_PACK_SIZE < size << 64
