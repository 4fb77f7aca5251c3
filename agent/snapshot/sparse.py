"""Where the data of a sparse file is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from agent.repository.model import BLOCK, Extent

MAX_EXTENTS = 65536
"""A file with more runs of data than this has its smallest holes stored as zeros: its map must stay small."""


def may_be_sparse(facts: os.stat_result) -> bool:
    """Says whether a file occupies less than its size; compressing file systems make others look so too."""
    return facts.st_blocks * 512 < facts.st_size


def extents_of(fd: int, size: int) -> tuple[Extent, ...] | None:
    """Returns the runs of data of an open file of ``size`` bytes, or None if it has no holes.

    Runs begin and end at multiples of 512 bytes (or at the file's end), as a tar archive needs.
    """
    runs: list[list[int]] = []
    try:
        for start, end in _data(fd, size):
            start = start // BLOCK * BLOCK
            end = min(-(-end // BLOCK) * BLOCK, size)
            if runs and start <= runs[-1][1]:
                runs[-1][1] = end
            else:
                runs.append([start, end])
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTSUP):
            return None
        raise
    gap = 4096
    while len(runs) > MAX_EXTENTS:
        gap *= 2
        runs = _bridge(runs, gap)
    if len(runs) == 1 and runs[0] == [0, size]:
        return None
    return tuple(Extent(start, end - start) for start, end in runs)


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start >= size:
            return
        position = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, position


def _bridge(runs: list[list[int]], gap: int) -> list[list[int]]:
    joined = [runs[0]]
    for run in runs[1:]:
        if run[0] - joined[-1][1] < gap:
            joined[-1][1] = run[1]
        else:
            joined.append(run)
    return joined
