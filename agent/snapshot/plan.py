"""Groups scanned entries into packs and large files. Pure: the same tree gives the same plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from blake3 import blake3

from agent.repository.model import MAX_CHUNK_SIZE, Entry, EntryType
from agent.repository.tar import member_bound
from agent.snapshot.unchanged import UnchangedRun

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


Planned = PackPlan | LargePlan | UnchangedRun
"""A step of the archive; an unchanged run is taken as it is stored."""


def plan(found: Iterable[Entry | UnchangedRun], large_file_size: int) -> Iterator[Planned]:
    """Yields packs and large files in archive order.

    A pack ends after an entry whose path's hash says so, so a changed file moves one pack and not all that follow. An
    unchanged run is kept if that is what would be planned without it: a tree's plan does not depend on its past.
    """
    planner = _Planner(large_file_size)
    for item in found:
        yield from planner.add(item) if isinstance(item, Entry) else planner.add_run(item)
    yield from planner.end()


class _Planner:
    """The pack that is being filled, or the unchanged one whose end is not certain yet."""

    def __init__(self, large_file_size: int) -> None:
        self._large_file_size = large_file_size
        self._entries: list[Entry] = []
        self._bounds: list[int] = []
        self._size = 0
        self._kept: UnchangedRun | None = None

    def add(self, entry: Entry) -> Iterator[Planned]:
        is_large = entry.type is EntryType.FILE and entry.data_size >= self._large_file_size
        if self._kept is not None:
            yield from self._end_kept(is_end=is_large)
        bound = 0 if is_large else member_bound(entry)
        if is_large or self._size + bound > MAX_CHUNK_SIZE or len(self._entries) == MAX_PACK_ENTRIES:
            yield from self._end_pack()
        if is_large:
            yield LargePlan(entry)
            return
        self._entries.append(entry)
        self._bounds.append(bound)
        self._size += bound
        if _ends_pack(entry.path, bound):
            yield from self._end_pack()

    def add_run(self, run: UnchangedRun) -> Iterator[Planned]:
        is_large = run.is_large_file and run.saved[0].data_size >= self._large_file_size
        if self._kept is not None:
            yield from self._end_kept(is_end=is_large or run.follows(self._kept))
        if is_large:
            yield from self._end_pack()
            yield run
        elif self._entries or run.is_large_file:
            for entry in run.anew():
                yield from self.add(entry)
        elif _ends_pack(run.saved[-1].path, member_bound(run.saved[-1].entry())):
            yield run
        else:
            self._kept = run

    def end(self) -> Iterator[Planned]:
        if self._kept is not None:
            yield from self._end_kept(is_end=True)
        yield from self._end_pack()

    def _end_kept(self, is_end: bool) -> Iterator[Planned]:
        """Keeps the run if what comes next is what ended it; or else its pack goes on."""
        kept, self._kept = self._kept, None
        if kept is not None and is_end:
            yield kept
        elif kept is not None:
            for entry in kept.anew():
                yield from self.add(entry)

    def _end_pack(self) -> Iterator[Planned]:
        if self._entries:
            yield PackPlan(self._entries, self._bounds)
        self._entries, self._bounds, self._size = [], [], 0


def _ends_pack(path: bytes, size: int) -> bool:
    """Says whether a pack ends after this entry: with a chance of its size by the mean, decided by its path alone."""
    draw = int.from_bytes(blake3(path).digest(8), "big")
    return draw * MEAN_PACK_SIZE < size << 64
