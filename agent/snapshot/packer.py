"""Does the tasks of a snapshot: has packs and segments built, stores them, and places what they became."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from agent.errors import WorkerCrashedError
from agent.events import ChunkKind, Stage
from agent.pipeline.crew import Crew, Stopwatch
from agent.pipeline.meter import Meter
from agent.pipeline.occupation import Occupations
from agent.pipeline.warnings import Warnings
from agent.pipeline.worker_process import WorkerDiedError
from agent.repository.model import SEGMENT_SIZE, Entry, ManifestWarning
from agent.repository.tar import member_header
from agent.snapshot.assembly import Assembly, Piece
from agent.snapshot.builder import ChunkBuilding
from agent.snapshot.plan import PackPlan
from agent.snapshot.sink import ChunkRef, ChunkSink
from agent.snapshot.source import READ_ATTEMPTS, changed, refreshed, same_content, unreadable, unsure
from agent.snapshot.task import BuiltPack, BuiltSegment

_T = TypeVar("_T")

ATTEMPTS = 3
"""Worker processes that may die over one chunk before the snapshot fails."""


class PackTask(msgspec.Struct, frozen=True):
    """Build the pack that is ``number`` in archive order."""

    number: int
    plan: PackPlan


class LargeFile:
    """A large file whose segments are under way. Its descriptor stays open, so all segments are of one file.

    Attributes:
        planned: its entry as it was scanned.
        entry: its entry as it is read.
    """

    def __init__(self, number: int, planned: Entry, fd: int) -> None:
        self.number = number
        self.planned = planned
        self.fd = fd
        self.before = os.fstat(fd)
        self.entry = refreshed(planned, fd, self.before)
        self.segments: list[ChunkRef | None] = [None] * -(-self.entry.data_size // SEGMENT_SIZE)
        self.left = len(self.segments)
        self.is_short = False
        self.error: OSError | None = None
        self.lock = threading.Lock()

    @property
    def dropped_groups(self) -> frozenset[int]:
        """The group whose other names lead to what stood in its place before, if another file does now."""
        is_replaced = self.planned.hard_link_group != self.entry.hard_link_group
        return frozenset({self.planned.hard_link_group}) if is_replaced else frozenset()

    def has_changed(self) -> bool:
        """Says whether the file was written to since its reading began."""
        return self.is_short or not same_content(self.before, os.fstat(self.fd))


class SegmentTask(msgspec.Struct, frozen=True):
    """Build one segment of a large file."""

    file: LargeFile
    index: int


class Packer:
    """Does the tasks of one thread. Chunks are built by ``builder``, which may be in a process of its own."""

    def __init__(
        self,
        builder: ChunkBuilding,
        sink: ChunkSink,
        assembly: Assembly,
        crew: Crew,
        meter: Meter,
        occupations: Occupations,
        warnings: Warnings,
    ) -> None:
        self._builder = builder
        self._sink = sink
        self._assembly = assembly
        self._crew = crew
        self._meter = meter
        self._occupations = occupations
        self._warnings = warnings

    def close(self) -> None:
        """Gives back what it holds."""
        self._builder.close()

    def use(self, builder: ChunkBuilding) -> None:
        """Has chunks built by another builder from now on."""
        self._builder.close()
        self._builder = builder

    def pack(self, task: PackTask) -> None:
        """Builds a pack and places it."""
        built, chunk = self._surviving(lambda: self._build_pack(task.plan))
        self._warn(built.problems)
        content = sum(entry.data_size for entry in built.kept)
        models = sum(entry.data_size for entry in built.kept if entry.model)
        planned = len(task.plan.entries)
        self._meter.add(Stage.PACK, content, planned, built.read_seconds, models)
        self._assembly.place(task.number, Piece([chunk] if chunk else [], list(built.kept), planned, built.dropped))

    def segment(self, task: SegmentTask) -> None:
        """Builds a segment; the last one of a file also places the file."""
        file = task.file
        try:
            if file.error is None:
                self._read_segment(file, task.index)
        except OSError as error:
            file.error = error
        with file.lock:
            file.left -= 1
            is_last = file.left == 0
        if is_last:
            self.finish(file)

    def finish(self, file: LargeFile) -> None:
        """Reads a file again that changed meanwhile, writes its header chunk and places it."""
        try:
            if file.error is not None:
                raise file.error
            file = self._settled(file)
        except OSError as error:
            self.drop(file.number, file.planned, error)
            return
        finally:
            os.close(file.fd)
        entry = msgspec.structs.replace(file.entry, segments=len(file.segments))
        chunks = [self._sink.put_small(member_header(entry), ChunkKind.HEADER), *filter(None, file.segments)]
        self._meter.add(Stage.PACK, entries=1)
        self._assembly.place(file.number, Piece(chunks, [entry], 1, file.dropped_groups))

    def drop(self, number: int, entry: Entry, error: OSError) -> None:
        """Places nothing instead of a large file that cannot be read."""
        self._warn([unreadable(entry.path, error)])
        self._meter.add(Stage.PACK, entries=1)
        self._assembly.place(number, Piece([], [], 1, frozenset({entry.hard_link_group} - {0})))

    def _settled(self, file: LargeFile) -> LargeFile:
        """Returns the file as it was read without a change, or as last read, with a warning."""
        for _ in range(READ_ATTEMPTS - 1):
            if not file.has_changed():
                return file
            file = LargeFile(file.number, file.planned, file.fd)
            for index in range(len(file.segments)):
                self._read_segment(file, index)
        if file.has_changed():
            file.entry = unsure(file.entry)
            self._warn([changed(file.entry.path)])
        return file

    def _build_pack(self, plan: PackPlan) -> tuple[BuiltPack, ChunkRef | None]:
        with Stopwatch() as watch:
            built = self._builder.pack(plan)
        self._occupations.worked(watch.seconds, built.processor_seconds)
        return built, self._put(built, ChunkKind.PACK) if built.raw_size else None

    def _read_segment(self, file: LargeFile, index: int) -> None:
        start = index * SEGMENT_SIZE
        size = min(SEGMENT_SIZE, file.entry.data_size - start)
        built, chunk = self._surviving(lambda: self._build_segment(file, start, size))
        file.is_short |= built.is_short
        self._meter.add(Stage.PACK, size, 0, built.read_seconds, size if file.entry.model else 0)
        file.segments[index] = chunk

    def _build_segment(self, file: LargeFile, start: int, size: int) -> tuple[BuiltSegment, ChunkRef]:
        with Stopwatch() as watch:
            built = self._builder.segment(file.fd, file.entry, start, size)
        self._occupations.worked(watch.seconds, built.processor_seconds)
        return built, self._put(built, ChunkKind.SEGMENT)

    def _put(self, built: BuiltPack | BuiltSegment, kind: ChunkKind) -> ChunkRef:
        return self._sink.put(ChunkRef(built.id, built.raw_size, kind), built.hash_seconds, self._builder.store)

    def _surviving(self, work: Callable[[], _T]) -> _T:
        """Does work again whose worker process died over it."""
        for _ in range(ATTEMPTS):
            try:
                return work()
            except WorkerDiedError as error:
                self._crew.check()
                how = str(error)
        raise WorkerCrashedError(f"{ATTEMPTS} worker processes died over one chunk, the last one by {how}")

    def _warn(self, problems: Iterable[ManifestWarning]) -> None:
        for problem in problems:
            self._warnings.add(problem.reason, problem.message, problem.path)
