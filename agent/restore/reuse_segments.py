"""Large files that the target holds in whole or in part: kept, gone on with, or copied segment by segment."""

from __future__ import annotations

import enum
import itertools
import threading
from collections.abc import Iterator

import msgspec

from agent.repository.model import Chunk, Entry, Extent
from agent.restore.elsewhere import Elsewhere, common_end
from agent.restore.hands import Hands
from agent.restore.keep import Keeper
from agent.restore.large import Hand
from agent.restore.notes import Notes
from agent.restore.plan import LargeFile, RestorePlan, SegmentJob, SegmentPlace, SegmentTarget
from agent.restore.task import SegmentCopy, SegmentDigest

MOST_SOURCES = 4
"""Files from which the copy of one segment is tried."""


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
        # The files that are not as they should be, and whether anything stands under their names.
        self._changed: dict[LargeFile, bool] = {}
        # What was found, by chunk: a place in the target that holds it.
        self._sources: dict[bytes, SegmentPlace] = {}
        self._held: dict[LargeFile, int] = {}
        self._arrived: set[tuple[LargeFile, int]] = set()
        # Files of the target under other names, by the chunk that they begin with.
        self._alike: dict[bytes, list[Entry]] = {}
        self._first = {target.file: job.chunk.id for job in plan.segments for target in job.targets if not target.start}
        self._lock = threading.Lock()
        self.left = plan.segments
        self.empty = plan.empty

    def keep(self) -> None:
        """Keeps the files that are as they should be, as far as size and time tell."""
        for file in self._files:
            self._hands.check()
            self._keep(file, is_verified=False)
            if not file.is_kept:
                self._changed[file] = self._keeper.facts(file.entry.path) is not None
        self.empty = [file for file in self.empty if not file.is_kept]
        if not any(file.entry.segments for file in self._changed):
            self.left = []

    def search(self, elsewhere: Elsewhere) -> None:
        """Looks for segments where they grow, in what stands under their names, and elsewhere."""
        growing = {file for file in self._changed if self._hands.first.publisher.take_over(file)}
        wanted = {job.chunk.id for job in self.left}
        looks: list[_Look] = []
        for job in self.left:
            for target in job.targets:
                if target.file.is_kept:
                    self._sources.setdefault(job.chunk.id, target.place)
                    continue
                if target.file in growing:
                    looks.append(_Look(target, job.chunk, target.file.entry, _Where.GROWING))
                if self._changed[target.file]:
                    looks.append(_Look(target, job.chunk, target.file.entry, _Where.IN_PLACE))
        looks += self._others(elsewhere)
        self._hands.each(looks, lambda hand, look: self._look(hand, look, wanted))
        for file in self._changed:
            if file.entry.segments and self._held.get(file) == file.entry.segments:
                self._keep(file, is_verified=True)
        self._take_arrived()

    def copy(self) -> None:
        """Copies what was found."""
        self.left = [
            SegmentJob(job.chunk, targets)
            for job in self.left
            if (targets := [item for item in job.targets if not item.file.is_kept and not self._has_arrived(item)])
        ]
        copied: set[bytes] = set()
        # What others are copied from is replaced once all copies are made.
        read = {
            source.entry.path
            for job in self.left
            for source in self._sources_of(job)
            if any(target.file.entry.path != source.entry.path for target in job.targets)
        }
        later: list[SegmentTarget] = []

        def copy(hand: Hand, job: SegmentJob) -> None:
            if not self._copy(hand, job):
                return
            copied.add(job.chunk.id)
            for target in job.targets:
                if target.file.entry.path in read:
                    later.append(target)
                else:
                    hand.publisher.written([target])

        self._hands.each(self.left, copy)
        self._hands.first.publisher.written(later)
        self.left = [job for job in self.left if job.chunk.id not in copied]

    def _keep(self, file: LargeFile, is_verified: bool) -> None:
        if self._keeper.keeps(file.entry, self._intact_groups, is_verified=is_verified):
            file.is_kept = True
            self._notes.keep(1, file.entry.data_size)

    def _others(self, elsewhere: Elsewhere) -> Iterator[_Look]:
        """Yields the looks at files under other names: one for each, and each way in which its holes may lie."""
        kept = {file.entry.path for file in self._files if file.is_kept}
        seen: set[tuple[bytes, tuple[Extent, ...]]] = set()
        for job in self.left:
            for target in job.targets:
                file = target.file
                if file.is_kept or target.start:
                    continue
                for path in elsewhere.of_size(file.entry):
                    entry = msgspec.structs.replace(file.entry, path=path)
                    look = path, entry.extents
                    if path not in kept and path != file.entry.path and look not in seen:
                        seen.add(look)
                        yield _Look(target, job.chunk, entry, _Where.ELSEWHERE)

    def _look(self, hand: Hand, look: _Look, wanted: set[bytes]) -> None:
        target = look.target
        place = SegmentPlace(look.entry, target.start, target.size)
        is_growing = look.where is _Where.GROWING
        digest = self._hands.do(hand, SegmentDigest(look.chunk, place, is_unfinished=is_growing)).digest
        if digest not in wanted:
            return
        with self._lock:
            if is_growing:
                if digest == look.chunk.id:
                    self._arrived.add((target.file, target.start))
                return
            self._sources.setdefault(digest, place)
            if look.where is _Where.ELSEWHERE:
                self._alike.setdefault(digest, []).append(look.entry)
            elif digest == look.chunk.id:
                self._held[target.file] = self._held.get(target.file, 0) + 1

    def _has_arrived(self, target: SegmentTarget) -> bool:
        return (target.file, target.start) in self._arrived

    def _take_arrived(self) -> None:
        """Counts the segments that a killed restore has brought, and publishes what was complete with them."""
        targets = [target for job in self.left for target in job.targets]
        arrived = [target for target in targets if self._has_arrived(target) and not target.file.is_kept]
        self._notes.keep(0, sum(target.size for target in arrived))
        self._hands.first.publisher.written(arrived)

    def _copy(self, hand: Hand, job: SegmentJob) -> bool:
        """Copies a segment to where it belongs, from the first file that holds it; says whether one did."""
        places = tuple(target.place for target in job.targets)
        for source in itertools.islice(self._sources_of(job), MOST_SOURCES):
            hand.publisher.begin(job.targets)
            written = self._hands.do(hand, SegmentCopy(job.chunk, source, places))
            if written.is_done:
                self._notes.present.add(copied=written.content_bytes)
                return True
        return False

    def _sources_of(self, job: SegmentJob) -> Iterator[SegmentPlace]:
        """Yields where the target may hold a segment, the likeliest first: what is copied is verified."""
        found = self._sources.get(job.chunk.id)
        if found is not None:
            yield found
        for target in job.targets:
            alike = self._alike.get(self._first[target.file], ())
            for entry in sorted(alike, key=lambda entry: -common_end(entry.path, target.file.entry.path)):
                yield SegmentPlace(entry, target.start, target.size)
