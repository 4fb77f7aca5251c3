"""A set of entries by their places in the manifest. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from agent.repository.manifest_reader import Location


class Marks:
    """Marks on entries, in one byte each: there may be millions.

    Args:
        counts: the number of entries of each section.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._starts = list(itertools.accumulate(counts, initial=0))
        self._marks = bytearray(self._starts[-1])

    def add(self, section: int, position: int) -> None:
        """Marks an entry."""
        self._marks[self._starts[section] + position] = 1

    def discard(self, first: Location, places: Iterable[int]) -> None:
        """Unmarks entries by their places in the run that begins with ``first``."""
        start = self._starts[first.section] + first.position
        for place in places:
            self._marks[start + place] = 0

    def of_section(self, section: int) -> list[int]:
        """Returns the marked positions of a section, ascending."""
        start = self._starts[section]
        marks = self._marks[start : self._starts[section + 1]]
        return [position for position, mark in enumerate(marks) if mark] if any(marks) else []
