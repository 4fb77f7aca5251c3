"""What a thread of a restore does with a chunk: has it written (and fetched), counts it, publishes large files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from agent.errors import DataLossError, ObjectNotFoundError
from agent.events import Cause, ChunkFinished, Stage
from agent.pipeline.crew import Stopwatch
from agent.repository.manifest_reader import ManifestReader
from agent.restore.fetch import Fetcher
from agent.restore.hands import Hand
from agent.restore.marks import Marks
from agent.restore.notes import Notes
from agent.restore.plan import Job, PackJob, SegmentJob, SegmentPlace, entries_of
from agent.restore.ready import Fetched, Unfetched
from agent.restore.selection import Selection
from agent.restore.task import SegmentFetch, SegmentTask, Task, Written
from agent.storage.choice import STREAM
from agent.storage.engine import Incoming, TransferReport


class Worker:
    """One working thread. Chunks are written by ``hand``, which may do so in a process of its own.

    Args:
        directories: those that have not got their metadata yet.
        prefers_unfetched: whether segments that it fetches come before chunks that have arrived. Some workers do, some
            do not: then disk and processors both have something to do.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        manifest: ManifestReader,
        selection: Selection,
        directories: Marks,
        hand: Hand,
        notes: Notes,
        prefers_unfetched: bool,
    ) -> None:
        self._fetcher = fetcher
        self._manifest = manifest
        self._selection = selection
        self._directories = directories
        self._chunks = hand.chunks
        self._publisher = hand.publisher
        self._notes = notes
        self._prefers_unfetched = prefers_unfetched

    def run(self) -> None:
        """Works until no chunk is left."""
        while (item := self._take()) is not None:
            if isinstance(item, Unfetched):
                self._fetch(item)
            else:
                self._handle(item)

    def _take(self) -> Fetched | Unfetched | None:
        with self._waiting():
            return self._fetcher.take(self._prefers_unfetched)

    def _fetch(self, unfetched: Unfetched) -> None:
        job = unfetched.job
        with self._waiting():
            lent = self._fetcher.lend(unfetched)
        if lent is None:
            return
        arrival = None
        try:
            self._publisher.begin(job.targets)
            written = self._do(SegmentFetch(job.chunk, _places(job), lent.loan))
            arrival = written.arrival
        except DataLossError as error:
            self._damaged(unfetched, error)
            return
        finally:
            lent.give_back(arrival)
        if arrival is None:
            self._fetcher.instead(unfetched)
            return
        self._count(job, written)
        report = TransferReport(job.chunk.stored_size, arrival.seconds, arrival.attempts, STREAM)
        self._finished(job, report, unfetched.attempt)

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
            self._damaged(fetched, error)
            return
        finally:
            incoming.release()
        self._finished(job, incoming.report, fetched.attempt)

    def _damaged(self, item: Fetched | Unfetched, error: DataLossError) -> None:
        if not self._fetcher.again(item):
            self._lost(item, error.message)

    def _finished(self, job: Job, report: TransferReport, attempt: int) -> None:
        self._notes.meter.add(Stage.DOWNLOAD, report.stored_bytes, busy_seconds=report.seconds)
        self._notes.emit(
            ChunkFinished(
                chunk_id=job.chunk.id.hex(),
                kind=job.chunk.kind,
                raw_bytes=job.chunk.raw_size,
                stored_bytes=report.stored_bytes,
                seconds=report.seconds,
                attempts=report.attempts + attempt - 1,
                engine=report.engine,
            )
        )
        self._fetcher.done()

    def _write(self, job: Job, incoming: Incoming) -> None:
        self._count(job, self._do(self._task(job), incoming))

    def _do(self, task: Task, incoming: Incoming | None = None) -> Written:
        with Stopwatch() as watch:
            written = self._chunks.do(task, incoming)
        waited = written.arrival.waited if written.arrival is not None else 0.0
        self._notes.occupations.add(Cause.STORE, waited)
        self._notes.occupations.worked(watch.seconds - waited, written.processor_seconds)
        return written

    def _task(self, job: Job) -> Task:
        """Returns what the writer of chunks is told; the unfinished files are there then."""
        if isinstance(job, PackJob):
            return job
        self._publisher.begin(job.targets)
        return SegmentTask(job.chunk, _places(job))

    def _count(self, job: Job, written: Written) -> None:
        self._notes.meter.add(Stage.DECOMPRESS, job.chunk.raw_size, busy_seconds=written.decode_seconds)
        self._notes.written(written)
        if isinstance(job, PackJob):
            self._directories.discard(job.first, written.directories)
        else:
            self._publisher.written(job.targets)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        with Stopwatch() as watch:
            yield
        self._notes.occupations.add(Cause.STORE, watch.seconds)

    def _lost(self, item: Fetched | Unfetched, problem: str) -> None:
        job = item.job
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


def _places(job: SegmentJob) -> tuple[SegmentPlace, ...]:
    return tuple(target.place for target in job.targets)
