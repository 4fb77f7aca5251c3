"""What a writing thread does with a chunk that has arrived: decompress, verify, write."""

from __future__ import annotations

import itertools
import os
import time

from agent.errors import DataLossError, ObjectNotFoundError
from agent.events import Cause, ChunkFinished, Emit, FileReady, Stage
from agent.pipeline.crew import Crew
from agent.pipeline.local_errors import local_error
from agent.pipeline.meter import Meter
from agent.pipeline.occupation import Occupations
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import Entry, EntryType
from agent.restore.decode import Decoder
from agent.restore.fetch import Damage, Fetched, Fetcher
from agent.restore.plan import LargeFile, PackJob, SegmentJob, SegmentTarget
from agent.restore.segment_file import SegmentFile
from agent.restore.selection import Selection
from agent.restore.writer import Writer
from agent.storage.engine import Incoming

_IN_PACKS = frozenset(
    {EntryType.FILE, EntryType.SYMLINK, EntryType.FIFO, EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE}
)

FILES_AT_ONCE = 128
"""Files that one segment is written into at once: a process may have only so many descriptors."""


class Worker:
    """One writing thread."""

    def __init__(
        self,
        fetcher: Fetcher,
        manifest: ManifestReader,
        selection: Selection,
        writer: Writer,
        damage: Damage,
        engine_name: str,
        crew: Crew,
        meter: Meter,
        occupations: Occupations,
        emit: Emit,
    ) -> None:
        self._fetcher = fetcher
        self._manifest = manifest
        self._selection = selection
        self._writer = writer
        self._damage = damage
        self._engine_name = engine_name
        self._crew = crew
        self._meter = meter
        self._occupations = occupations
        self._emit = emit
        self._decoder = Decoder()

    def run(self) -> None:
        """Works until no chunk is left."""
        try:
            with self._occupations.thread():
                while (fetched := self._take()) is not None:
                    self._handle(fetched)
        finally:
            self._writer.close()

    def _take(self) -> Fetched | None:
        with self._occupations.waiting(Cause.STORE):
            return self._fetcher.take()

    def _handle(self, fetched: Fetched) -> None:
        job = fetched.job
        try:
            incoming = fetched.future.result()
        except ObjectNotFoundError:
            self._lost(fetched, "its object is missing in the store")
            return
        try:
            if isinstance(job, PackJob):
                self._write_pack(job, incoming)
            else:
                self._write_segment(job, incoming)
        except DataLossError as error:
            incoming.release()
            if not self._fetcher.again(fetched):
                self._lost(fetched, error.message)
            return
        finally:
            incoming.release()
        report = incoming.report
        self._meter.add(Stage.DOWNLOAD, report.stored_bytes, busy_seconds=report.seconds)
        self._emit(
            ChunkFinished(
                chunk_id=job.chunk.id.hex(),
                kind=job.chunk.kind,
                raw_bytes=job.chunk.raw_size,
                stored_bytes=report.stored_bytes,
                seconds=report.seconds,
                attempts=report.attempts + fetched.attempt - 1,
                engine=self._engine_name,
            )
        )
        self._fetcher.done()

    def _write_pack(self, job: PackJob, incoming: Incoming) -> None:
        begun = time.monotonic()
        raw = self._decoder.pack(incoming.view, job.chunk)
        decoded = time.monotonic()
        self._meter.add(Stage.DECOMPRESS, len(raw), busy_seconds=decoded - begun)
        count = size = models = 0
        for entry in itertools.chain(self._entries(job), job.extra):
            self._writer.write_small(entry, raw[entry.data_offset : entry.data_offset + entry.data_size])
            count += 1
            size += entry.data_size
            models += entry.data_size if entry.model else 0
        self._meter.add(Stage.WRITE, size, count, time.monotonic() - decoded, models)

    def _entries(self, job: PackJob) -> list[Entry]:
        run = self._manifest.run_of_entries(job.first, job.count)
        return [entry for entry in run if entry.type in _IN_PACKS and self._selection.covers(entry.path)]

    def _write_segment(self, job: SegmentJob, incoming: Incoming) -> None:
        begun = time.monotonic()
        writing = 0.0
        by_file: dict[int, list[SegmentTarget]] = {}
        for target in job.targets:
            by_file.setdefault(target.file.number, []).append(target)
        groups = list(by_file.values())
        for start in range(0, len(groups), FILES_AT_ONCE):
            writing += self._write_into(groups[start : start + FILES_AT_ONCE], job, incoming)
        size = sum(target.size for target in job.targets)
        models = sum(target.size for target in job.targets if target.file.entry.model)
        self._meter.add(Stage.DECOMPRESS, job.chunk.raw_size, busy_seconds=time.monotonic() - begun - writing)
        self._meter.add(Stage.WRITE, size, 0, writing, models)
        for target in job.targets:
            self._segment_written(target.file)

    def _write_into(self, groups: list[list[SegmentTarget]], job: SegmentJob, incoming: Incoming) -> float:
        """Writes a segment into some files, each with all its places; returns the seconds that writing took."""
        writing = 0.0
        files: list[SegmentFile] = []

        def take(position: int, raw: memoryview) -> None:
            nonlocal writing
            self._crew.check()
            begun = time.monotonic()
            for target, file in places:
                part = raw[: max(target.size - position, 0)]
                try:
                    file.write(target.start + position, part)
                except OSError as error:
                    raise local_error(f"{os.fsdecode(target.file.entry.path)} cannot be written", error) from error
            writing += time.monotonic() - begun

        try:
            for group in groups:
                self._writer.begin_large(group[0].file)
                files.append(self._writer.open_large(group[0].file))
            places = [(target, file) for group, file in zip(groups, files, strict=True) for target in group]
            self._decoder.stream(incoming.view, job.chunk, take, at_page=self._writer.bypasses_cache)
        finally:
            for file in files:
                file.close()
        return writing

    def _segment_written(self, file: LargeFile) -> None:
        with file.lock:
            file.left -= 1
            is_complete = file.left == 0 and not file.is_lost
        if is_complete:
            self._publish(file)

    def publish_empty(self, file: LargeFile) -> None:
        """Makes a large file that has no stored content."""
        self._writer.begin_large(file)
        self._publish(file)
        self._writer.close()

    def _publish(self, file: LargeFile) -> None:
        self._writer.publish_large(file)
        file.is_published = True
        self._meter.add(Stage.WRITE, entries=1)
        self._emit(FileReady(file.entry.path, file.entry.size))

    def _lost(self, fetched: Fetched, problem: str) -> None:
        job = fetched.job
        if isinstance(job, PackJob):
            paths = [entry.path for entry in (*self._entries(job), *job.extra)]
        else:
            paths = [target.file.entry.path for target in job.targets]
            for target in job.targets:
                with target.file.lock:
                    target.file.is_lost = True
        self._damage.add(job, problem, paths)
        self._fetcher.done()
