"""Large files that the target holds in whole or in part: kept, gone on with, or copied segment by segment."""

from __future__ import annotations

import enum
import itertools
import threading
from collections import Counter, deque
from collections.abc import Iterator

import msgspec

from agent.errors import NoSpaceError
from agent.repository.model import Chunk, Entry, Extent
from agent.restore.elsewhere import Elsewhere, common_end
from agent.restore.hands import Hand, Hands
from agent.restore.keep import Keeper
from agent.restore.notes import Notes
from agent.restore.plan import LargeFile, RestorePlan, SegmentJob, SegmentPlace, SegmentTarget
from agent.restore.task import SegmentCopy, SegmentDigest

MOST_SOURCES = 4
"""Places from which the copy of one segment is tried."""

LOOKS_PER_FILE = 2
MORE_LOOKS = 4
"""Files of one size that are looked at for those that are missing: so many for each of these, and so many more."""


class _Where(enum.Enum):
    """Where a segment is looked for."""

    GROWING = "in the unfinished file of a killed restore"
    IN_PLACE = "in the file of its name"
    ELSEWHERE = "at the start of a file of another name and the same size"


class _Look(msgspec.Struct, frozen=True):
    """Look what the file that ``entry`` names holds where a segment belongs."""

    target: SegmentTarget
    chunk: Chunk
    entry: Entry
    where: _Where


class _Source(msgspec.Struct, frozen=True):
    """Where a segment may be; ``is_seen`` where its content was looked at."""

    place: SegmentPlace
    is_seen: bool


class SegmentReuse:
    """The search for segments.

    Attributes:
        left: the segments that must be fetched.
        empty: the large files without content that must be made.
    """

    def __init__(
        self, plan: RestorePlan, hands: Hands, keeper: Keeper, intact_groups: frozenset[int], notes: Notes
    ) -> None:
        self._hands = hands
        self._keeper = keeper
        self._intact_groups = intact_groups
        self._notes = notes
        self._files = sorted(plan.large_files(), key=lambda file: file.entry.path)
        # The files that are not as they should be, and whether a file stands under their names.
        self._changed: dict[LargeFile, bool] = {}
        self._wanted = {job.chunk.id for job in plan.segments}
        # What was found, by chunk: a place in the target that holds it.
        self._sources: dict[bytes, SegmentPlace] = {}
        self._held: dict[LargeFile, int] = {}
        self._arrived: set[tuple[LargeFile, int]] = set()
        # Files of the target under other names, by the chunk that they begin with.
        self._beginning: dict[bytes, list[Entry]] = {}
        self._first = {target.file: job.chunk.id for job in plan.segments for target in job.targets if not target.start}
        # Those of them that turned out not to hold what the large file holds that begins like them.
        self._doubted: set[bytes] = set()
        self._lock = threading.Lock()
        self.left = plan.segments
        self.empty = plan.empty

    def keep(self) -> None:
        """Keeps the files that are as they should be, as far as size and time tell."""
        for file in self._files:
            self._hands.check()
            self._keep(file, is_verified=False)
            if not file.is_kept:
                self._changed[file] = self._keeper.has_file(file.entry.path)
        self.empty = [file for file in self.empty if not file.is_kept]
        if not any(file.entry.segments for file in self._changed):
            self.left = []

    def look_in_place(self) -> None:
        """Looks for segments where they grow, and in what stands under the names of their files."""
        growing = {file for file in self._changed if self._hands.first.publisher.take_over(file)}
        looks: list[_Look] = []
        for job in self.left:
            self._hands.check()
            for target in job.targets:
                if target.file.is_kept:
                    self._sources.setdefault(job.chunk.id, target.place)
                    continue
                if target.file in growing:
                    looks.append(_Look(target, job.chunk, target.file.entry, _Where.GROWING))
                if self._changed[target.file]:
                    looks.append(_Look(target, job.chunk, target.file.entry, _Where.IN_PLACE))
        self._hands.each(looks, self._look)
        for file in self._changed:
            self._hands.check()
            if file.entry.segments and self._held.get(file) == file.entry.segments:
                self._keep(file, is_verified=True)
        self._take_arrived()
        self.left = [
            SegmentJob(job.chunk, targets)
            for job in self.left
            if (targets := [item for item in job.targets if not item.file.is_kept and not self._has_arrived(item)])
        ]

    def sought_sizes(self) -> frozenset[int]:
        """Returns the sizes of the files of which something has not been found."""
        return frozenset(target.file.entry.size for job in self._sought() for target in job.targets)

    def look_elsewhere(self, elsewhere: Elsewhere) -> None:
        """Looks whether files under other names begin like those of which something has not been found."""
        self._hands.each(list(self._looks_elsewhere(elsewhere)), self._look)

    def copy(self) -> None:
        """Copies what was found. What others are copied from is replaced only after that."""
        read: dict[bytes, set[bytes]] = {}
        for job in self.left:
            self._hands.check()
            paths = {target.file.entry.path for target in job.targets}
            sources = (source.place.entry.path for source in self._sources_of(job))
            read[job.chunk.id] = {path for path in sources if paths != {path}}
        readers = Counter(path for paths in read.values() for path in paths)
        waiting: dict[bytes, list[SegmentTarget]] = {}
        copied: set[bytes] = set()

        def copy(hand: Hand, job: SegmentJob) -> None:
            is_copied = self._copy(hand, job)
            ready: list[SegmentTarget] = []
            with self._lock:
                for path in read[job.chunk.id]:
                    readers[path] -= 1
                    if not readers[path]:
                        ready += waiting.pop(path, [])
                if is_copied:
                    copied.add(job.chunk.id)
                    for target in job.targets:
                        path = target.file.entry.path
                        (waiting.setdefault(path, []) if readers[path] else ready).append(target)
            hand.publisher.written(ready)

        self._hands.each(self.left, copy)
        self.left = [job for job in self.left if job.chunk.id not in copied]

    def _keep(self, file: LargeFile, is_verified: bool) -> None:
        # One that is all hole is looked at, if times do not vouch for it.
        content = None if file.entry.segments else memoryview(b"")
        if self._keeper.keeps(file.entry, self._intact_groups, content, is_verified):
            file.is_kept = True
            self._notes.keep(1, file.entry.data_size)

    def _sought(self) -> list[SegmentJob]:
        return [job for job in self.left if job.chunk.id not in self._sources]

    def _looks_elsewhere(self, elsewhere: Elsewhere) -> Iterator[_Look]:
        """Yields looks at the first segments of other files, for all files that would be alike in turn."""
        missing = {target.file for job in self._sought() for target in job.targets}
        alike: dict[tuple[int, tuple[Extent, ...]], list[SegmentTarget]] = {}
        chunks: dict[SegmentTarget, Chunk] = {}
        kept = {file.entry.path for file in self._files if file.is_kept}
        for job in self.left:
            for target in job.targets:
                if not target.start and target.file in missing:
                    chunks[target] = job.chunk
                    alike.setdefault((target.file.entry.size, target.file.entry.extents), []).append(target)
        for targets in alike.values():
            # Those of the same names were looked at in place.
            seen = kept | {target.file.entry.path for target in targets}
            turns = deque((target, elsewhere.candidates(target.file.entry)) for target in targets)
            left = MORE_LOOKS + LOOKS_PER_FILE * len(targets)
            while turns and left:
                self._hands.check()
                target, candidates = turns.popleft()
                path = next((path for path in candidates if path not in seen), None)
                if path is not None:
                    turns.append((target, candidates))
                    seen.add(path)
                    left -= 1
                    entry = msgspec.structs.replace(target.file.entry, path=path)
                    yield _Look(target, chunks[target], entry, _Where.ELSEWHERE)

    def _look(self, hand: Hand, look: _Look) -> None:
        target = look.target
        place = SegmentPlace(look.entry, target.start, target.size)
        is_growing = look.where is _Where.GROWING
        digest = self._hands.do(hand, SegmentDigest(look.chunk, place, is_unfinished=is_growing)).digest
        if digest not in self._wanted:
            return
        with self._lock:
            if is_growing:
                if digest == look.chunk.id:
                    self._arrived.add((target.file, target.start))
                return
            self._sources.setdefault(digest, place)
            if look.where is _Where.IN_PLACE and digest == look.chunk.id:
                self._held[target.file] = self._held.get(target.file, 0) + 1
            elif not target.start:
                self._beginning.setdefault(digest, []).append(look.entry)

    def _has_arrived(self, target: SegmentTarget) -> bool:
        return (target.file, target.start) in self._arrived

    def _take_arrived(self) -> None:
        """Counts the segments that a killed restore has brought, and publishes what was complete with them."""
        targets = [target for job in self.left for target in job.targets]
        arrived = [target for target in targets if self._has_arrived(target) and not target.file.is_kept]
        self._notes.keep(0, sum(target.size for target in arrived))
        self._hands.first.publisher.written(arrived)

    def _copy(self, hand: Hand, job: SegmentJob) -> bool:
        """Copies a segment to where it belongs, from the first place that holds it; says whether one did."""
        places = tuple(target.place for target in job.targets)
        for source in itertools.islice(self._sources_of(job), MOST_SOURCES):
            path = source.place.entry.path
            # Better read in vain than written.
            if not source.is_seen and path in self._doubted and not self._holds(hand, source.place, job.chunk):
                continue
            try:
                hand.publisher.begin(job.targets, needs_room=False)
                written = self._hands.do(hand, SegmentCopy(job.chunk, source.place, places))
            except NoSpaceError:
                # There may be room once the copies that are made have taken the place of what was there.
                return False
            if written.is_done:
                self._notes.present.add(copied=written.content_bytes)
                return True
            if not source.is_seen:
                self._doubted.add(path)
        return False

    def _holds(self, hand: Hand, place: SegmentPlace, chunk: Chunk) -> bool:
        return self._hands.do(hand, SegmentDigest(chunk, place)).digest == chunk.id

    def _sources_of(self, job: SegmentJob) -> Iterator[_Source]:
        """Yields where the target may hold a segment, the likeliest first: what is copied is verified."""
        found = self._sources.get(job.chunk.id)
        if found is not None:
            yield _Source(found, is_seen=True)
        for target in job.targets:
            own = target.file.entry.path
            beginning = self._beginning.get(self._first[target.file], ())
            for entry in sorted(beginning, key=lambda entry: -common_end(entry.path, own)):
                yield _Source(SegmentPlace(entry, target.start, target.size), is_seen=False)
