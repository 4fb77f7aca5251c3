"""Goes through the entries of a manifest beside a scan, and decodes of most no more than what tells a change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from gpusnap.v1 import manifest_pb2 as pb

from agent.repository import messages
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import Entry, EntryType, order

Facts = tuple[int, int, int, int, int]
"""Size (0 unless it is a file), mtime_ns, ctime_ns, inode, device: together they tell that a file was not touched."""


class SavedEntry(msgspec.Struct, frozen=True, gc=False):
    """One entry as a manifest has it. What is not an attribute is decoded when it is asked for.

    Attributes:
        number: its place among all entries, from 0.
        path: as in ``Entry``.
        type: as in ``Entry``.
        facts: what it was when it was read.
        begins: whether the entry before it lies in another chunk.
        ends: whether the entry after it lies in another chunk.
    """

    number: int
    path: bytes
    type: EntryType
    facts: Facts
    begins: bool
    ends: bool
    message: pb.ManifestEntry

    @property
    def link_target(self) -> bytes:
        """As in ``Entry``."""
        return self.message.link_target

    @property
    def hard_link_group(self) -> int:
        """As in ``Entry``."""
        return self.message.hard_link_group

    @property
    def data_offset(self) -> int:
        """As in ``Entry``."""
        return self.message.data_offset

    @property
    def data_size(self) -> int:
        """As in ``Entry``."""
        return self.message.data_size

    @property
    def model(self) -> bool:
        """As in ``Entry``."""
        return self.message.model

    @property
    def chunk(self) -> int:
        """As in ``Entry``."""
        return self.message.chunk

    @property
    def segments(self) -> int:
        """As in ``Entry``."""
        return self.message.segments

    def entry(self) -> Entry:
        """Returns the whole entry."""
        return messages.entry_from_pb(self.message)

    def unplaced(self) -> Entry:
        """Returns the entry as if a scan had just found it: without its place in the archive."""
        return msgspec.structs.replace(self.entry(), chunk=0, data_offset=0, segments=0)


class ManifestWalk:
    """One pass over a manifest, in archive order. Memory holds two sections.

    Raises:
        DataLossError: the manifest is damaged; ``find`` too.
    """

    def __init__(self, manifest: ManifestReader) -> None:
        self._rest = _saved_entries(manifest)
        self._head = next(self._rest, None)

    def find(self, path: bytes) -> SavedEntry | None:
        """Returns the entry of exactly this path; every path must come after the one before, in archive order."""
        head = self._head
        if head is None:
            return None
        if head.path != path:
            place = order(path)
            while head is not None and order(head.path) < place:
                head = next(self._rest, None)
            self._head = head
            if head is None or head.path != path:
                return None
        self._head = next(self._rest, None)
        return head


def _saved_entries(manifest: ManifestReader) -> Iterator[SavedEntry]:
    # An entry ends what its chunk holds if the next one lies elsewhere, so the section behind is read as well.
    sections = (manifest.entry_messages(number) for number in range(manifest.entry_sections))
    filled = (section for section in sections if section)
    number, before = 0, -1
    section: Sequence[pb.ManifestEntry] = next(filled, ())
    while section:
        behind: Sequence[pb.ManifestEntry] = next(filled, ())
        chunks = [message.chunk for message in section]
        following = [*chunks[1:], behind[0].chunk if behind else -1]
        for message, chunk, after in zip(section, chunks, following, strict=True):
            yield SavedEntry(
                number,
                message.path,
                messages.type_from_pb(message),
                messages.facts_from_pb(message),
                chunk != before,
                chunk != after,
                message,
            )
            number += 1
            before = chunk
        section = behind
