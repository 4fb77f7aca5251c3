"""Where stored content lies in its file. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.repository.model import Entry, Extent


def content_spans(entry: Entry, start: int, length: int) -> Iterator[tuple[int, int]]:
    """Yields (file offset, length) of ``length`` bytes from ``start`` of an entry's stored content."""
    if entry.sparse:
        yield from _sparse_spans(entry.extents, start, length)
    elif length > 0:
        yield start, length


def _sparse_spans(extents: tuple[Extent, ...], start: int, length: int) -> Iterator[tuple[int, int]]:
    position = 0
    for extent in extents:
        first = max(start - position, 0)
        if first < extent.length and length > 0:
            taken = min(extent.length - first, length)
            yield extent.offset + first, taken
            start += taken
            length -= taken
        position += extent.length
