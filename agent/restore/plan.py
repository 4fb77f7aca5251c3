"""Reads the whole manifest once, and decides what is fetched and where it goes. Nothing is written yet.

How the entries stand to each other is checked here. What each says is checked where it is read to be written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from agent.errors import DataLossError, InvalidRequestError
from agent.events import ChunkKind, ClassTotals, ScanTotals
from agent.repository.manifest_reader import Location, ManifestReader
from agent.repository.model import SEGMENT_SIZE, Chunk, Entry, EntryType, Outline
from agent.repository.validate import ArchiveCheck
from agent.restore.marks import Marks
from agent.restore.selection import Selection

_T = TypeVar("_T")

WITHOUT_CONTENT = frozenset({EntryType.DIRECTORY, EntryType.HARD_LINK})
"""What is made without a pack or segments, once those are written."""


class PackJob(msgspec.Struct, frozen=True, tag="pack"):
    """Fetch a pack and write its entries; also what a worker process is told about it.

    Attributes:
        first, count: the run of entries in the manifest that the pack holds.
        extra: chosen names whose content is that of a file in this pack which is not chosen itself.
        groups: the hard-link groups of chosen files in it; for those who write it, only the intact ones.
    """

    chunk: Chunk
    first: Location
    count: int
    extra: tuple[Entry, ...] = ()
    groups: tuple[int, ...] = ()


class LargeFile:
    """A large file that is being put together in any order of its segments."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.left = entry.segments
        self.is_begun = False
        self.is_taken_over = False
        self.is_published = False
        self.is_kept = False
        self.is_lost = False
        self.lock = threading.Lock()


class SegmentPlace(msgspec.Struct, frozen=True):
    """Where a segment is or goes: a large file by its entry, and the place in its stored content."""

    entry: Entry
    start: int
    size: int


class SegmentTarget(msgspec.Struct, frozen=True):
    """Where a segment goes: a file, and the place in its stored content."""

    file: LargeFile
    start: int
    size: int

    @property
    def place(self) -> SegmentPlace:
        """The same as plain data."""
        return SegmentPlace(self.file.entry, self.start, self.size)


class SegmentJob(msgspec.Struct, frozen=True):
    """Fetch a segment and write it wherever its content occurs."""

    chunk: Chunk
    targets: list[SegmentTarget]


Job = PackJob | SegmentJob


class RestorePlan(msgspec.Struct, frozen=True):
    """What is fetched and where it goes.

    Attributes:
        empty: large files without stored content.
        totals: what is chosen.
        content_bytes: bytes of content that will be written.
        has_hard_links: whether any further name of an entry is chosen.
        promoted: hard-link group -> the chosen name that stands in for the first one, which is not chosen.
        directories: the chosen ones and those above; whoever gives one its metadata for good unmarks it.
    """

    packs: list[PackJob]
    segments: list[SegmentJob]
    empty: list[LargeFile]
    totals: ScanTotals
    content_bytes: int
    promoted: dict[int, bytes]
    has_hard_links: bool
    directories: Marks

    @property
    def has_groups(self) -> bool:
        """Whether anything chosen has further names in the snapshot."""
        large = any(file.entry.hard_link_group for file in self.large_files())
        return large or any(job.groups for job in self.packs)

    @property
    def chunks(self) -> int:
        """How many chunks are fetched."""
        return len(self.packs) + len(self.segments)

    def large_files(self) -> set[LargeFile]:
        """Returns every large file."""
        return {*self.empty, *(target.file for job in self.segments for target in job.targets)}

    def jobs(self) -> Iterator[Job]:
        """Yields all jobs: segments first, and packs in between so that both kinds end at about the same time."""
        jobs: Iterator[Job] = side_by_side(self.segments, self.packs, lambda job: job.chunk.stored_size)
        return jobs


def side_by_side(first: Sequence[_T], second: Sequence[_T], size: Callable[[_T], int]) -> Iterator[_T]:
    """Yields the items of two sequences in their order, so that both come to their end at about the same time."""
    totals = sum(map(size, first)) or 1, sum(map(size, second)) or 1
    done = [0, 0]
    left = iter(first), iter(second)
    items = [next(items, None) for items in left]
    while any(item is not None for item in items):
        is_first_behind = done[0] * totals[1] <= done[1] * totals[0]
        turn = 0 if items[0] is not None and (items[1] is None or is_first_behind) else 1
        item = items[turn]
        assert item is not None
        yield item
        done[turn] += size(item)
        items[turn] = next(left[turn], None)


def make_plan(manifest: ManifestReader, selection: Selection) -> RestorePlan:
    """Makes the plan.

    Raises:
        DataLossError: the manifest is damaged.
        InvalidRequestError: a chosen path is not in the snapshot.
    """
    return Planner(manifest, selection).make()


def entries_of(manifest: ManifestReader, selection: Selection, job: PackJob) -> list[Entry]:
    """Returns the chosen entries that are written from a pack, without the job's extra ones."""
    run = manifest.run_of_entries(job.first, job.count)
    return [entry for entry in run if entry.type not in WITHOUT_CONTENT and selection.covers(entry.path)]


class Planner:
    """Makes one plan.

    Args:
        on_pack: gets each pack that is needed, once all its entries were seen; of a part of a snapshot, the plan may
            want more of it.

    Attributes:
        directories: as in ``RestorePlan``; those that were seen so far.
    """

    def __init__(
        self, manifest: ManifestReader, selection: Selection, on_pack: Callable[[PackJob], None] = lambda job: None
    ) -> None:
        self._on_pack = on_pack
        self._manifest = manifest
        self._chunks = manifest.chunks()
        self._selection = selection
        self._check = ArchiveCheck()
        self._missing = set() if selection.everything else set(selection.paths)
        self._packs: dict[int, PackJob] = {}
        self._in_packs = {number for number, chunk in enumerate(self._chunks) if chunk.kind is ChunkKind.PACK}
        self._pack_chunk = -1
        self._pack_first = Location(0, 0)
        self._pack_count = 0
        self._is_pack_needed = False
        self._pack_groups: list[int] = []
        self._large: list[LargeFile] = []
        self._links: dict[int, Outline] = {}
        self._has_hard_links = False
        sections = range(manifest.entry_sections)
        self.directories = Marks([manifest.section_index(number).count for number in sections])
        self._entries = self._directories = self._link_count = 0
        self._files = {True: [0, 0], False: [0, 0]}
        self._content = 0

    def make(self) -> RestorePlan:
        """Reads the whole manifest; raises as ``make_plan``."""
        for number in range(self._manifest.entry_sections):
            self._see(number)
        return self._plan()

    def _see(self, number: int) -> None:
        large: list[int] = []
        for position, entry in enumerate(self._manifest.outlines(number)):
            self._check.see(entry)
            self._missing.discard(entry.path)
            is_chosen = self._selection.covers(entry.path)
            has_content = is_chosen and entry.type not in WITHOUT_CONTENT
            if entry.chunk in self._in_packs:
                self._extend_pack(number, position, entry, has_content)
            elif has_content:
                large.append(position)
            if entry.type is EntryType.DIRECTORY and (is_chosen or self._selection.is_above(entry.path)):
                self.directories.add(number, position)
            if is_chosen:
                self._count(entry)
                if entry.type is EntryType.HARD_LINK:
                    self._see_link(entry)
        self._large += map(LargeFile, self._manifest.entries_at(number, large) if large else ())

    def _plan(self) -> RestorePlan:
        if self._missing:
            shown = ", ".join(repr(path) for path in sorted(self._missing)[:3])
            raise InvalidRequestError(f"the snapshot does not hold {shown}", hint="list it with `gpusnap files`")
        self._close_pack()
        self._promote()
        segments: dict[bytes, SegmentJob] = {}
        for file in self._large:
            for index in range(file.entry.segments):
                chunk = self._chunks[file.entry.chunk + 1 + index]
                start = index * SEGMENT_SIZE
                target = SegmentTarget(file, start, min(SEGMENT_SIZE, file.entry.data_size - start))
                segments.setdefault(chunk.id, SegmentJob(chunk, [])).targets.append(target)
        return RestorePlan(
            packs=list(self._packs.values()),
            segments=list(segments.values()),
            empty=[file for file in self._large if not file.entry.segments],
            totals=ScanTotals(
                entries=self._entries,
                directories=self._directories,
                links=self._link_count,
                models=ClassTotals(*self._files[True]),
                other=ClassTotals(*self._files[False]),
                complete=True,
            ),
            content_bytes=self._content,
            promoted={group: link.path for group, link in self._links.items()},
            has_hard_links=self._has_hard_links,
            directories=self.directories,
        )

    def _see_link(self, entry: Outline) -> None:
        self._has_hard_links = True
        if entry.hard_link_group not in self._links and not self._selection.covers(entry.link_target):
            self._links[entry.hard_link_group] = entry

    def _extend_pack(self, number: int, position: int, entry: Outline, has_content: bool) -> None:
        if self._pack_chunk != entry.chunk:
            self._close_pack()
            self._pack_chunk = entry.chunk
            self._pack_first = Location(number, position)
        if entry.data_size > self._chunks[entry.chunk].raw_size:
            # Before the room for it is looked for.
            raise DataLossError(f"the manifest is damaged: {entry.path!r} is larger than its pack")
        self._pack_count += 1
        self._is_pack_needed |= has_content
        if has_content and entry.hard_link_group:
            self._pack_groups.append(entry.hard_link_group)

    def _close_pack(self) -> None:
        if self._is_pack_needed:
            job = PackJob(
                self._chunks[self._pack_chunk], self._pack_first, self._pack_count, groups=tuple(self._pack_groups)
            )
            self._packs[self._pack_chunk] = job
            self._on_pack(job)
        self._pack_chunk, self._pack_count, self._is_pack_needed = -1, 0, False
        self._pack_groups = []

    def _promote(self) -> None:
        """Lets the first chosen name of a group have the content, where the group's first name is not chosen."""
        for link in self._links.values():
            original = self._manifest.find(link.link_target)
            if original is None or original.type in WITHOUT_CONTENT:
                raise DataLossError(f"the manifest is damaged: {link.path!r} is a link to {link.link_target!r}")
            entry = msgspec.structs.replace(original, path=link.path)
            self._content += entry.data_size
            if self._chunks[entry.chunk].kind is not ChunkKind.PACK:
                self._large.append(LargeFile(entry))
                continue
            job = self._packs.get(entry.chunk) or PackJob(self._chunks[entry.chunk], Location(0, 0), 0)
            groups = (*job.groups, entry.hard_link_group)
            self._packs[entry.chunk] = msgspec.structs.replace(job, extra=(*job.extra, entry), groups=groups)

    def _count(self, entry: Outline) -> None:
        self._entries += 1
        if entry.type is EntryType.FILE:
            files = self._files[entry.model]
            files[0] += 1
            files[1] += entry.data_size
            self._content += entry.data_size
        elif entry.type is EntryType.DIRECTORY:
            self._directories += 1
        elif entry.type in (EntryType.SYMLINK, EntryType.HARD_LINK):
            self._link_count += 1
