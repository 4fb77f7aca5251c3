"""Finds whole packs and large files of the parent of which nothing has changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agent.events import ChunkKind
from agent.repository.manifest_walk import SavedEntry
from agent.repository.model import Chunk, Entry, EntryType
from agent.snapshot.tally import Tally
from agent.snapshot.unchanged import UnchangedRun

MAX_RUN = 16384
"""Entries of a run at most, so that memory is bounded whatever the parent says; packs have no more."""


def compare(found: Iterable[Entry | SavedEntry], chunks: Sequence[Chunk]) -> Iterator[Entry | UnchangedRun]:
    """Yields what was found: runs of entries that are all that lies in their chunk, and other entries one by one.

    Args:
        found: a scan, in archive order.
        chunks: the parent's chunk table.
    """
    run: list[SavedEntry] = []
    for item in found:
        if isinstance(item, Entry):
            yield from _apart(run)
            run = []
            yield item
            continue
        is_next = bool(run) and item.number == run[-1].number + 1 and len(run) < MAX_RUN
        if item.begins or not is_next:
            yield from _apart(run)
            run = []
        if run or item.begins:
            run.append(item)
        else:
            yield item.unplaced()
        if run and item.ends:
            whole = _whole(run, chunks)
            yield from _apart(run) if whole is None else (whole,)
            run = []
    yield from _apart(run)


def _apart(run: Iterable[SavedEntry]) -> Iterator[Entry]:
    return (saved.unplaced() for saved in run)


def _whole(run: list[SavedEntry], chunks: Sequence[Chunk]) -> UnchangedRun | None:
    """Returns a run with its chunks, or None if the parent's chunks are not what they must be."""
    first = run[0]
    held = chunks[first.chunk : first.chunk + 1 + first.segments]
    kinds = [chunk.kind for chunk in held]
    if kinds == [ChunkKind.PACK]:
        size = held[0].raw_size
        is_sound = all(saved.data_offset + saved.data_size <= size and not saved.segments for saved in run)
    else:
        is_large = len(run) == 1 and first.type is EntryType.FILE
        is_sound = is_large and kinds == [ChunkKind.HEADER] + [ChunkKind.SEGMENT] * first.segments
    if not is_sound:
        return None
    tally = Tally()
    for saved in run:
        tally.add(saved)
    return UnchangedRun(run, held, tally.totals())
