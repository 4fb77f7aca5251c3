"""What need not be read again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec

from agent.events import ChunkKind, ScanTotals
from agent.repository.manifest_walk import SavedEntry
from agent.repository.model import Chunk, Entry, EntryType


class UnchangedRun(msgspec.Struct, frozen=True):
    """All entries that one pack of the parent holds, or one large file, none of them changed.

    Attributes:
        saved: the entries.
        chunks: the pack, or the large file's header and segments.
        totals: what the entries count for.
    """

    saved: list[SavedEntry]
    chunks: Sequence[Chunk]
    totals: ScanTotals

    @property
    def is_large_file(self) -> bool:
        """Whether it is a large file and no pack."""
        return self.chunks[0].kind is not ChunkKind.PACK

    def anew(self) -> Iterator[Entry]:
        """Yields the entries as if they had been found anew."""
        return (saved.unplaced() for saved in self.saved)

    def follows(self, before: UnchangedRun) -> bool:
        """Says whether the parent has nothing between ``before`` and this."""
        return self.saved[0].number == before.saved[-1].number + 1

    def links_to(self, groups: Collection[int]) -> bool:
        """Says whether it holds a further name of a file of one of these groups."""
        return any(saved.type is EntryType.HARD_LINK and saved.hard_link_group in groups for saved in self.saved)


def reliable(
    found: Iterable[Entry | UnchangedRun], has: Callable[[Sequence[Chunk]], bool]
) -> Iterator[Entry | UnchangedRun]:
    """Yields what was found; runs with a chunk that may not be relied on as entries that must be read.

    Args:
        found: what was found.
        has: says whether all of some chunks can be relied on.
    """
    for item in found:
        if isinstance(item, UnchangedRun) and not has(item.chunks):
            yield from item.anew()
        else:
            yield item
