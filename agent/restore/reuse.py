"""Finds what the target holds of what a restore is to bring, keeps or copies it, and leaves the rest to be fetched."""

from __future__ import annotations

import enum
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from agent.pipeline.crew import Crew, Stopwatch
from agent.repository.model import Chunk, Entry
from agent.restore.elsewhere import files_of_sizes
from agent.restore.keep import Keeper
from agent.restore.large import Hand
from agent.restore.notes import Notes
from agent.restore.plan import LargeFile, PackJob, RestorePlan, SegmentJob, SegmentPlace, SegmentTarget
from agent.restore.task import LocalTask, PackCheck, SegmentCheck, SegmentCopy, Written

_T = TypeVar("_T")


class _Where(enum.Enum):
    """Where a segment is looked for."""

    GROWING = "in the unfinished file of a killed restore"
    IN_PLACE = "in the file of its name"
    ELSEWHERE = "in a file of another name"


class _Check(msgspec.Struct, frozen=True):
    """Look whether the file that ``entry`` names holds what belongs into a large file."""

    target: SegmentTarget
    chunk: Chunk
    entry: Entry
    where: _Where


class Reuse:
    """The search of one restore.

    Args:
        hands: one for each thread.
        keeper: for the calling thread.
        intact_groups: as for ``present.may_be_kept``.
    """

    def __init__(
        self,
        plan: RestorePlan,
        root_fd: int,
        hands: Sequence[Hand],
        keeper: Keeper,
        intact_groups: frozenset[int],
        notes: Notes,
        crew: Crew,
    ) -> None:
        self._plan = plan
        self._root_fd = root_fd
        self._hands = hands
        self._keeper = keeper
        self._intact_groups = intact_groups
        self._notes = notes
        self._crew = crew
        # What the checks found, by chunk: a file of the target that holds it.
        self._sources: dict[bytes, SegmentPlace] = {}
        self._held: dict[LargeFile, int] = {}
        self._elsewhere: dict[LargeFile, Entry] = {}
        self._arrived: set[tuple[LargeFile, int]] = set()
        self._lock = threading.Lock()

    def run(self) -> RestorePlan:
        """Returns what is left to be fetched.

        Raises:
            GpusnapError: the target cannot be written.
        """
        packs = self._keep_packs()
        files = sorted(self._plan.large_files(), key=lambda file: file.entry.path)
        for file in files:
            self._crew.check()
            self._keep_large(file, is_verified=False)
        changed = [file for file in files if not file.is_kept]
        self._search(changed)
        for file in changed:
            if file.entry.segments and self._held.get(file) == file.entry.segments:
                self._keep_large(file, is_verified=True)
        self._take_arrived()
        segments = self._copy_segments()
        return msgspec.structs.replace(
            self._plan,
            packs=packs,
            segments=segments,
            empty=[file for file in self._plan.empty if not file.is_kept],
        )

    def _keep_packs(self) -> list[PackJob]:
        """Returns the packs that must be fetched."""
        missing: set[bytes] = set()
        jobs = [
            msgspec.structs.replace(job, groups=tuple(self._intact_groups.intersection(job.groups)))
            for job in self._plan.packs
        ]

        def keep(hand: Hand, job: PackJob) -> None:
            if not self._do(hand, PackCheck(job)).is_done:
                missing.add(job.chunk.id)

        self._each(jobs, keep)
        return [job for job in jobs if job.chunk.id in missing]

    def _keep_large(self, file: LargeFile, is_verified: bool) -> None:
        if self._keeper.keeps(file.entry, self._intact_groups, is_verified=is_verified):
            file.is_kept = True
            self._notes.keep(1, file.entry.data_size)

    def _search(self, files: list[LargeFile]) -> None:
        """Looks for the segments of changed files where they grow, in what stands under their names, and elsewhere."""
        growing = {file for file in files if self._hands[0].publisher.take_over(file)}
        sizes = {file: self._keeper.file_size(file.entry.path) for file in files}
        known = {file.entry.path for file in self._plan.large_files()}
        missing = {file.entry.size for file in files if file.entry.segments and sizes[file] != file.entry.size}
        others = files_of_sizes(self._root_fd, missing, known, self._crew.check) if missing else {}
        checks: list[_Check] = []
        for job in self._plan.segments:
            for target in job.targets:
                file = target.file
                if file.is_kept:
                    self._sources.setdefault(job.chunk.id, target.place)
                    continue
                if file in growing:
                    checks.append(_Check(target, job.chunk, file.entry, _Where.GROWING))
                if sizes[file] is not None:
                    checks.append(_Check(target, job.chunk, file.entry, _Where.IN_PLACE))
                if target.start == 0:
                    checks += [
                        _Check(target, job.chunk, msgspec.structs.replace(file.entry, path=path), _Where.ELSEWHERE)
                        for path in others.get(file.entry.size, [])
                    ]
        self._each(checks, self._check_segment)

    def _check_segment(self, hand: Hand, check: _Check) -> None:
        target = check.target
        place = SegmentPlace(check.entry, target.start, target.size)
        is_growing = check.where is _Where.GROWING
        if not self._do(hand, SegmentCheck(check.chunk, place, is_unfinished=is_growing)).is_done:
            return
        with self._lock:
            if is_growing:
                self._arrived.add((target.file, target.start))
            elif check.where is _Where.IN_PLACE:
                self._sources.setdefault(check.chunk.id, place)
                self._held[target.file] = self._held.get(target.file, 0) + 1
            else:
                self._elsewhere.setdefault(target.file, check.entry)

    def _has_arrived(self, target: SegmentTarget) -> bool:
        return (target.file, target.start) in self._arrived

    def _take_arrived(self) -> None:
        """Counts the segments that a killed restore has brought, and publishes what was complete with them."""
        targets = [target for job in self._plan.segments for target in job.targets]
        arrived = [target for target in targets if self._has_arrived(target) and not target.file.is_kept]
        self._notes.keep(0, sum(target.size for target in arrived))
        self._hands[0].publisher.written(arrived)

    def _copy_segments(self) -> list[SegmentJob]:
        """Copies what was found, and returns the segments that must be fetched."""
        needed = [
            SegmentJob(job.chunk, targets)
            for job in self._plan.segments
            if (targets := [item for item in job.targets if not item.file.is_kept and not self._has_arrived(item)])
        ]
        copied: set[bytes] = set()

        def copy(hand: Hand, job: SegmentJob) -> None:
            source = self._source(job)
            if source is None:
                return
            hand.publisher.begin(job.targets)
            places = tuple(target.place for target in job.targets)
            written = self._do(hand, SegmentCopy(job.chunk, source, places))
            if written.is_done:
                copied.add(job.chunk.id)
                self._notes.present.add(copied=written.content_bytes)
                hand.publisher.written(job.targets)

        self._each(needed, copy)
        return [job for job in needed if job.chunk.id not in copied]

    def _source(self, job: SegmentJob) -> SegmentPlace | None:
        """Returns where the target may hold a segment: what is copied is verified."""
        found = self._sources.get(job.chunk.id)
        if found is not None:
            return found
        for target in job.targets:
            if target.file in self._elsewhere:
                return SegmentPlace(self._elsewhere[target.file], target.start, target.size)
        return None

    def _do(self, hand: Hand, task: LocalTask) -> Written:
        with Stopwatch() as watch:
            written = hand.chunks.do(task)
        self._notes.occupations.worked(watch.seconds, written.processor_seconds)
        self._notes.written(written)
        return written

    def _each(self, items: Iterable[_T], work: Callable[[Hand, _T], None]) -> None:
        """Works on all items, in all threads."""
        pending: Iterator[_T] = iter(items)

        def run(hand: Hand) -> None:
            while True:
                self._crew.check()
                with self._lock:
                    item = next(pending, None)
                if item is None:
                    return
                work(hand, item)

        for number, hand in enumerate(self._hands):
            self._crew.start(f"reuse-{number}", functools.partial(run, hand))
        self._crew.join()
