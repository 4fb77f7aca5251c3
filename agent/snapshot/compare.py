"""Finds whole packs and large files of the parent of which nothing has changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agent.events import ChunkKind, ClassTotals, ScanTotals
from agent.repository.manifest_walk import SavedEntry
from agent.repository.model import Chunk, Entry, EntryType
from agent.snapshot.unchanged import UnchangedRun

MAX_RUN = 16384
"""Entries of a run at most, so that memory is bounded whatever the parent says; packs have no more."""

_NONE = -1


def compare(found: Iterable[Entry | SavedEntry], chunks: Sequence[Chunk]) -> Iterator[Entry | UnchangedRun]:
    """Yields what was found: runs of entries that are all that lies in their chunk, and other entries one by one.

    Args:
        found: a scan, in archive order.
        chunks: the parent's chunk table.
    """
    run: list[SavedEntry] = []
    expected = _NONE
    for item in found:
        if isinstance(item, SavedEntry):
            if item.number == expected and len(run) < MAX_RUN:
                run.append(item)
            elif item.begins:
                yield from _apart(run)
                run = [item]
            else:
                yield from _apart([*run, item])
                run = []
                expected = _NONE
                continue
            expected = item.number + 1
            if not item.ends:
                continue
            whole = _whole(run, chunks)
            yield from _apart(run) if whole is None else (whole,)
        else:
            yield from _apart(run)
            yield item
        run = []
        expected = _NONE
    yield from _apart(run)


def _apart(run: Iterable[SavedEntry]) -> Iterator[Entry]:
    return (saved.unplaced() for saved in run)


def _whole(run: list[SavedEntry], chunks: Sequence[Chunk]) -> UnchangedRun | None:
    """Returns a run with its chunks, or None if the parent's chunks are not what they must be."""
    first = run[0]
    held = chunks[first.chunk : first.chunk + 1 + first.segments]
    kinds = [chunk.kind for chunk in held]
    if kinds == [ChunkKind.PACK]:
        has_segments = any(saved.segments for saved in run)
        is_sound = not has_segments and max([saved.data_end for saved in run]) <= held[0].raw_size
    else:
        is_large = len(run) == 1 and first.type is EntryType.FILE
        is_sound = is_large and kinds == [ChunkKind.HEADER] + [ChunkKind.SEGMENT] * first.segments
    return UnchangedRun(run, held, _totals(run)) if is_sound else None


def _totals(run: list[SavedEntry]) -> ScanTotals:
    """Counts a run as ``Tally`` does, and quicker."""
    types = [saved.type for saved in run]
    models = [saved.data_size for saved in run if saved.model and saved.type is EntryType.FILE]
    other = [saved.data_size for saved in run if not saved.model and saved.type is EntryType.FILE]
    return ScanTotals(
        entries=len(run),
        directories=types.count(EntryType.DIRECTORY),
        links=types.count(EntryType.SYMLINK) + types.count(EntryType.HARD_LINK),
        models=ClassTotals(len(models), sum(models)),
        other=ClassTotals(len(other), sum(other)),
    )
