"""Aligned columns of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    """Yields lines with aligned columns; those numbered in ``right`` are aligned to the right.

    >>> for line in columns(("ID", "SIZE"), [("a", "1 B"), ("bcd", "20 B")], right=(1,)):
    ...     print(line)
    ID   SIZE
    a     1 B
    bcd  20 B
    """
    table = [header, *rows]
    widths = [max(len(row[number]) for row in table) for number in range(len(header))]
    for row in table:
        cells = (
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
