"""What a thread of a restore does with a chunk that has arrived: has it written, counts it, publishes large files."""

from __future__ import annotations

from agent.errors import DataLossError, ObjectNotFoundError
from agent.events import Cause, ChunkFinished, Stage
from agent.pipeline.crew import Stopwatch
from agent.repository.manifest_reader import ManifestReader
from agent.restore.fetch import Fetched, Fetcher
from agent.restore.hands import Hand
from agent.restore.marks import Marks
from agent.restore.notes import Notes
from agent.restore.plan import Job, PackJob, entries_of
from agent.restore.selection import Selection
from agent.restore.task import SegmentTask, Task, Written
from agent.storage.engine import Incoming


class Worker:
    """One working thread. Chunks are written by ``hand``, which may do so in a process of its own.

    Args:
        directories: those that have not got their metadata yet.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        manifest: ManifestReader,
        selection: Selection,
        directories: Marks,
        hand: Hand,
        notes: Notes,
    ) -> None:
        self._fetcher = fetcher
        self._manifest = manifest
        self._selection = selection
        self._directories = directories
        self._chunks = hand.chunks
        self._publisher = hand.publisher
        self._notes = notes

    def run(self) -> None:
        """Works until no chunk is left."""
        while (fetched := self._take()) is not None:
            self._handle(fetched)

    def _take(self) -> Fetched | None:
        with Stopwatch() as watch:
            fetched = self._fetcher.take()
        self._notes.occupations.add(Cause.STORE, watch.seconds)
        return fetched

    def _handle(self, fetched: Fetched) -> None:
        job = fetched.job
        try:
            incoming = fetched.future.result()
        except ObjectNotFoundError:
            self._lost(fetched, "its object is missing in the store")
            return
        try:
            self._write(job, incoming)
        except DataLossError as error:
            incoming.release()
            if not self._fetcher.again(fetched):
                self._lost(fetched, error.message)
            return
        finally:
            incoming.release()
        report = incoming.report
        self._notes.meter.add(Stage.DOWNLOAD, report.stored_bytes, busy_seconds=report.seconds)
        self._notes.emit(
            ChunkFinished(
                chunk_id=job.chunk.id.hex(),
                kind=job.chunk.kind,
                raw_bytes=job.chunk.raw_size,
                stored_bytes=report.stored_bytes,
                seconds=report.seconds,
                attempts=report.attempts + fetched.attempt - 1,
                engine=report.engine,
            )
        )
        self._fetcher.done()

    def _write(self, job: Job, incoming: Incoming) -> None:
        task = self._task(job)
        with Stopwatch() as watch:
            written = self._chunks.do(task, incoming)
        self._notes.occupations.worked(watch.seconds, written.processor_seconds)
        self._count(job, written)
        if not isinstance(job, PackJob):
            self._publisher.written(job.targets)

    def _task(self, job: Job) -> Task:
        """Returns what the writer of chunks is told; the unfinished files are there then."""
        if isinstance(job, PackJob):
            return job
        self._publisher.begin(job.targets)
        return SegmentTask(job.chunk, tuple(target.place for target in job.targets))

    def _count(self, job: Job, written: Written) -> None:
        self._notes.meter.add(Stage.DECOMPRESS, job.chunk.raw_size, busy_seconds=written.decode_seconds)
        self._notes.written(written)
        if isinstance(job, PackJob):
            self._directories.discard(job.first, written.directories)

    def _lost(self, fetched: Fetched, problem: str) -> None:
        job = fetched.job
        if isinstance(job, PackJob):
            entries = entries_of(self._manifest, self._selection, job)
            paths = [entry.path for entry in (*entries, *job.extra)]
        else:
            paths = [target.file.entry.path for target in job.targets]
            for target in job.targets:
                with target.file.lock:
                    target.file.is_lost = True
        self._notes.damage.add(job, problem, paths)
        self._fetcher.done()
