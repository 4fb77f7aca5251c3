"""Does the tasks of a snapshot: has packs and segments built, stores them, and places what they became."""

from __future__ import annotations

import os
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
from agent.snapshot.large_file import LargeFile, SegmentInFile
from agent.snapshot.plan import PackPlan
from agent.snapshot.sent_files import SentFiles
from agent.snapshot.sink import ChunkRef, ChunkSink, InFile
from agent.snapshot.source import READ_ATTEMPTS, changed, unreadable, unsure
from agent.snapshot.task import BuiltPack, BuiltSegment

_T = TypeVar("_T")

ATTEMPTS = 3
"""Worker processes that may die over one chunk before the snapshot fails."""


class PackTask(msgspec.Struct, frozen=True):
    """Build the pack that is ``number`` in archive order."""

    number: int
    plan: PackPlan


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
        sent_files: SentFiles,
    ) -> None:
        self._builder = builder
        self._sink = sink
        self._assembly = assembly
        self._crew = crew
        self._meter = meter
        self._occupations = occupations
        self._warnings = warnings
        self._sent_files = sent_files

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
        """Reads a file again that changed meanwhile, and places it once nothing is sent from it any more."""
        try:
            if file.error is not None:
                raise file.error
            file = self._settled(file)
        except OSError as error:
            os.close(file.fd)
            self.drop(file.number, file.planned, error)
            return
        if not self._sent_files.takes(file):
            os.close(file.fd)
            self._place(file)

    def _place(self, file: LargeFile) -> None:
        """Writes its header chunk and places it."""
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
        while file.has_changed():
            if file.attempt == READ_ATTEMPTS:
                file.entry = unsure(file.entry)
                self._warn([changed(file.entry.path)])
                break
            file = file.again()
            for index in range(len(file.segments)):
                self._read_segment(file, index)
        file.settle()
        return file

    def _build_pack(self, plan: PackPlan) -> tuple[BuiltPack, ChunkRef | None]:
        with Stopwatch() as watch:
            built = self._builder.pack(plan)
        self._occupations.worked(watch.seconds, built.processor_seconds)
        return built, self._put(built, ChunkKind.PACK, None) if built.raw_size else None

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
        # What changed might go on changing, and holes would be looked for again and again.
        is_steady = file.attempt == 1 and not file.entry.sparse
        in_file = SegmentInFile(file, start) if is_steady else None
        return built, self._put(built, ChunkKind.SEGMENT, in_file)

    def _put(self, built: BuiltPack | BuiltSegment, kind: ChunkKind, in_file: InFile | None) -> ChunkRef:
        chunk = ChunkRef(built.id, built.raw_size, kind)
        return self._sink.put(chunk, built.hash_seconds, self._builder, in_file)

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
