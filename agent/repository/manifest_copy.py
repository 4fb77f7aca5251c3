"""Entries of an earlier manifest on their way into a new one: whole sections as they are stored, parts as messages."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence

import msgspec
from gpusnap.v1 import manifest_pb2 as pb

from agent.repository.manifest_reader import ManifestReader


class Part(msgspec.Struct, frozen=True, gc=False):
    """Entries ``begin`` to ``end`` of one section."""

    section: int
    begin: int
    end: int


class SavedSections:
    """The sections of entries of an earlier manifest. Entries are named by their place among all, from 0.

    Args:
        manifest: the earlier manifest.
        fill: sections that have fewer entries on average are not worth copying: with time they would crumble.
    """

    def __init__(self, manifest: ManifestReader, fill: int) -> None:
        self._manifest = manifest
        counts = [manifest.section_index(number).count for number in range(manifest.entry_sections)]
        self._starts = [0, *itertools.accumulate(counts)]
        self.is_worth_copying = self._starts[-1] >= fill * len(counts)
        """Whether whole sections should be taken as they are."""

    def parts(self, first: int, count: int) -> Iterator[Part]:
        """Yields where ``count`` entries from ``first`` on are, section by section."""
        section = bisect.bisect_right(self._starts, first) - 1
        end = first + count
        while first < end:
            start, stop = self._starts[section], self._starts[section + 1]
            yield Part(section, first - start, min(stop, end) - start)
            first = stop
            section += 1

    def is_whole(self, part: Part) -> bool:
        """Says whether a part is all of its section."""
        return part.begin == 0 and part.end == self._manifest.section_index(part.section).count

    def stored(self, section: int) -> tuple[pb.SectionIndex, bytes]:
        """Returns a section as it is stored, and what the footer says about it; raises DataLossError if damaged."""
        return self._manifest.section_index(section), self._manifest.stored_section(section)

    def messages(self, part: Part) -> Sequence[pb.ManifestEntry]:
        """Returns the entries of a part; the caller may change them. Raises DataLossError if damaged."""
        return self._manifest.entry_messages(part.section)[part.begin : part.end]
