"""A snapshot from start to end: scan -> plan -> pack -> compress -> upload -> commit, all at the same time."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

from agent import version
from agent.errors import SnapshotNotFoundError
from agent.events import Begun, Cause, ChunkKind, Direction, Emit, OperationResult, ScanTotals, Stage
from agent.pipeline.beneath import DIRECTORY_FLAGS, Beneath
from agent.pipeline.crew import Allowance, Channel, Crew, Stopwatch
from agent.pipeline.local_errors import local_errors
from agent.pipeline.meter import Meter, Reporter
from agent.pipeline.occupation import Occupations
from agent.pipeline.standby_workers import StandbyWorkers
from agent.pipeline.worker_processes import WorkerProcesses
from agent.pipeline.workers import worker_count
from agent.repository import keys
from agent.repository.grace import Grace
from agent.repository.lease import take_lease
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Chunk, SnapshotSummary
from agent.repository.repository import Repository
from agent.repository.tar import END_OF_ARCHIVE
from agent.snapshot.assembly import Assembly, KeptPiece, SnapshotWarnings
from agent.snapshot.builder import ChunkBuilder
from agent.snapshot.commit import Commit
from agent.snapshot.filters import Filter
from agent.snapshot.found import FoundChunks
from agent.snapshot.interrupted import Interrupted, Marker
from agent.snapshot.known import Known
from agent.snapshot.large_file import LargeFile
from agent.snapshot.look_ahead import LookAhead
from agent.snapshot.packer import Packer, PackTask, SegmentTask
from agent.snapshot.parent import open_parent
from agent.snapshot.plan import LargePlan, PackPlan, plan
from agent.snapshot.remote import MODULE, RemoteBuilder
from agent.snapshot.request import SnapshotRequest
from agent.snapshot.scan import Scanner
from agent.snapshot.scan_ahead import ScanAhead
from agent.snapshot.sent_files import SentFiles
from agent.snapshot.sink import ChunkSink
from agent.snapshot.source import open_file
from agent.snapshot.unchanged import UnchangedRun, reliable
from agent.storage.engine import TransferEngine
from agent.storage.open import account_of, open_store, running_engine

STAGES = (Stage.SCAN, Stage.PACK, Stage.COMPRESS, Stage.UPLOAD, Stage.COMMIT)

SMALL_BYTES = 64 << 20
SMALL_ENTRIES = 2000
"""Worker processes start once either is exceeded: below, threads take no longer than processes take to start."""

ENTRIES_IN_FLIGHT = 32_768
"""Entries between the plan and the manifest at most; with ``plan.MAX_PACK_ENTRIES`` it is at least two packs."""


def run(
    request: SnapshotRequest,
    emit: Emit,
    cancel: threading.Event,
    ahead: LookAhead | None = None,
    standby: StandbyWorkers | None = None,
) -> OperationResult:
    """Makes a snapshot; blocks until it is committed.

    Args:
        request: what is to be saved.
        emit: gets the events.
        cancel: ends it.
        ahead: what looks at the workspace meanwhile, if anything does.
        standby: worker processes that wait already.

    Raises:
        GpusnapError: it failed, or was cancelled. Then no snapshot is listed, and what it uploaded is garbage.
    """
    chosen = Filter(request.exclude, request.include, request.exclude_caches)
    store = open_store(request.storage, request.transfer.retry_seconds)
    try:
        store.check()
        repository = Repository(store)
        grace = repository.ensure().grace
        if request.former and (committed := _committed(repository, request.former)):
            return committed
        with (
            running_engine(
                request.storage, request.transfer, request.staging_dir, Direction.UPLOAD, request.measurements
            ) as engine,
            contextlib.closing(WorkerProcesses(MODULE, 0, standby)) as processes,
        ):
            return _Snapshot(request, repository, grace, engine, processes, emit, cancel, ahead).run(chosen)
    finally:
        store.close()


def _committed(repository: Repository, snapshot_id: str) -> OperationResult | None:
    """Returns the result of a run that died between its commit and its last word; ``None`` if it did not commit."""
    try:
        summary = repository.summary(snapshot_id)
    except SnapshotNotFoundError:
        return None
    return OperationResult(
        snapshot_id=summary.id,
        totals=summary.totals,
        chunks=summary.chunks,
        raw_bytes=summary.raw_bytes,
        warnings=summary.warnings,
    )


class _Snapshot:
    """The state of one snapshot while it is made."""

    def __init__(
        self,
        request: SnapshotRequest,
        repository: Repository,
        grace: Grace,
        engine: TransferEngine,
        processes: WorkerProcesses,
        emit: Emit,
        cancel: threading.Event,
        ahead: LookAhead | None,
    ) -> None:
        self._request = request
        self._repository = repository
        self._grace = grace
        self._engine = engine
        self._emit = emit
        self._host = socket.gethostname()
        self._clock_ahead_ns = repository.store.clock_ahead_ns
        self._ahead = ahead
        # What is looked at counts from its beginning, by the clock as it goes now.
        looking_ns = time.monotonic_ns() - ahead.begun_ns if ahead is not None else 0
        self._start_ns = time.time_ns() - looking_ns + self._clock_ahead_ns
        self._id = keys.new_snapshot_id(self._start_ns)
        self._warnings = SnapshotWarnings()
        self._meter = Meter(STAGES, leading=Stage.PACK)
        self._occupations = Occupations()
        self._processes = processes
        self._crew = Crew(cancel, on_stop=self._stop)
        self._workers = worker_count(request.transfer.workers)
        # A small workspace is saved sooner than processes start.
        self._uses_processes = self._workers > 1 and request.transfer.workers > 0
        self._planned_bytes = self._planned_entries = 0
        self._sent_files = SentFiles(self._crew, self._workers)
        self._tasks: Channel[PackTask | SegmentTask | None] = Channel(self._crew, 2 * self._workers)
        self._allowance = Allowance(self._crew, ENTRIES_IN_FLIGHT)

    def run(self, chosen: Filter) -> OperationResult:
        """Runs the pipeline and commits."""
        # Whatever cannot be read in the workspace is a warning: what else fails here is the manifest's file.
        with local_errors(f"the staging folder {self._request.staging_dir} cannot be used"), self._crew.work():
            with local_errors(f"the workspace {os.fsdecode(self._request.workspace)} cannot be opened"):
                # What was seen ahead must be what is read now, whatever stands at the path meanwhile.
                workspace = self._request.workspace
                root_fd = os.open(workspace, DIRECTORY_FLAGS) if self._ahead is None else os.dup(self._ahead.root_fd)
            try:
                with Reporter(self._meter, self._emit):
                    return self._run(root_fd, chosen)
            finally:
                os.close(root_fd)

    def _run(self, root_fd: int, chosen: Filter) -> OperationResult:
        request = self._request
        manifest_path = os.path.join(request.staging_dir, "manifest")
        store = self._repository.store
        self._emit(Begun(self._id))
        interrupted = Interrupted(store, self._id, Marker(self._host, request.workspace))
        begun = interrupted.begin()
        lease = take_lease(store, self._grace, begun.now_s)
        known = Known(self._repository, lease.condemned, self._warnings)
        before = known.parent(self._host, request.workspace)
        compared = "" if request.full else before
        parent = open_parent(self._repository, compared, manifest_path + ".parent", request.scan, self._warnings)
        if parent is None and self._ahead is not None:
            self._ahead.abort()
        warnings, ahead = self._warnings, self._ahead
        scanner = Scanner(root_fd, chosen, request.scan, request.one_file_system, warnings, parent, ahead)
        scan = ScanAhead(scanner, parent, self._crew, self._meter, self._emit)
        found = FoundChunks(store, begun.now_s, lease.condemned, self._crew) if begun.has_others else None
        if found is not None:
            self._crew.start("find", found.run)
        sink = ChunkSink(self._engine, known.size, self._crew, self._meter, self._occupations, self._emit, found)
        with open(manifest_path, "xb") as file:
            writer = ManifestWriter(file, parent.manifest if parent is not None else None)
            assembly = Assembly(writer, self._allowance, self._warnings)
            self._move(root_fd, scan, sink, assembly)
            with Stopwatch() as watch:
                end = sink.put_small(END_OF_ARCHIVE, ChunkKind.END)
                with Stopwatch() as last_uploads:
                    sink.wait()
                # No thread works any more: all of them would wait for the store.
                self._occupations.add(Cause.STORE, last_uploads.seconds * self._workers)
                table = sink.table([*assembly.chunks, end])
                summary = self._summary(table, assembly.totals, before, scanner.last_hard_link_group)
                writer.finish(summary, table, self._warnings.kept)
        with watch:
            commit = Commit(store, request.storage.prefix, self._id, self._grace, self._crew)
            commit.run(manifest_path, table, lease)
            interrupted.end()
        self._meter.add(Stage.COMMIT, os.path.getsize(manifest_path), busy_seconds=watch.seconds)
        self._warnings.emit(self._emit)
        account = account_of(self._engine, self._request.storage, self._request.transfer)
        return OperationResult(
            snapshot_id=self._id,
            totals=summary.totals,
            chunks=summary.chunks,
            chunks_transferred=sink.transferred_chunks,
            raw_bytes=summary.raw_bytes,
            transferred_bytes=sink.transferred_bytes,
            seconds=time.monotonic() - self._meter.started,
            warnings=self._warnings.count,
            engine=account.engine,
            engine_reason=account.reason,
            measurements=account.measurements,
            occupation=self._occupations.totals(),
            stages=self._meter.stages(),
            unchanged_files=assembly.unchanged.files,
            unchanged_bytes=assembly.unchanged.bytes,
        )

    def _move(self, root_fd: int, scan: ScanAhead, sink: ChunkSink, assembly: Assembly) -> None:
        self._crew.start("scan", scan.scan)
        self._crew.start("plan", lambda: self._plan(root_fd, scan, sink, assembly))
        for number in range(self._workers):
            self._crew.start(f"pack-{number}", lambda: self._pack(root_fd, sink, assembly))
        self._crew.start("sent", lambda: self._finish_sent(root_fd, sink, assembly))
        self._crew.join()
        self._occupations.add(Cause.STORE, self._sent_files.seconds * self._workers)

    def _plan(self, root_fd: int, scan: ScanAhead, sink: ChunkSink, assembly: Assembly) -> None:
        # Only for large files that cannot be opened or have no content: those never reach a packing thread.
        packer = self._packer(root_fd, sink, assembly)
        with Beneath(root_fd) as beneath:
            found = reliable(scan.found(), sink.has)
            for number, planned in enumerate(plan(found, self._request.scan.large_file_size)):
                if isinstance(planned, UnchangedRun):
                    self._keep(number, planned, sink, assembly)
                    continue
                self._grow(planned)
                if isinstance(planned, PackPlan):
                    self._allowance.take(len(planned.entries))
                    self._tasks.put(PackTask(number, planned))
                    continue
                self._allowance.take(1)
                try:
                    file = LargeFile(number, planned.entry, open_file(beneath, planned.entry.path))
                except OSError as error:
                    packer.drop(number, planned.entry, error)
                    continue
                if not file.segments:
                    packer.finish(file)
                for index in range(len(file.segments)):
                    self._tasks.put(SegmentTask(file, index))
        for _ in range(self._workers):
            self._tasks.put(None)
        packer.close()

    def _keep(self, number: int, run: UnchangedRun, sink: ChunkSink, assembly: Assembly) -> None:
        self._allowance.take(len(run.saved))
        self._meter.spare(Stage.PACK, run.totals.bytes, len(run.saved))
        assembly.place(number, KeptPiece(sink.reuse(run.chunks), run))

    def _grow(self, planned: PackPlan | LargePlan) -> None:
        """Has worker processes started once the workspace turns out to be worth them."""
        if self._uses_processes or self._workers == 1:
            return
        if isinstance(planned, PackPlan):
            self._planned_entries += len(planned.entries)
            self._planned_bytes += sum(planned.bounds)
        else:
            self._planned_bytes += planned.entry.data_size
        if self._planned_bytes > SMALL_BYTES or self._planned_entries > SMALL_ENTRIES:
            self._processes.prepare(self._workers)
            self._uses_processes = True

    def _pack(self, root_fd: int, sink: ChunkSink, assembly: Assembly) -> None:
        packer = self._packer(root_fd, sink, assembly)
        is_remote = False
        try:
            while (task := self._next_task()) is not None:
                if self._uses_processes and not is_remote:
                    packer.use(RemoteBuilder(self._processes, root_fd))
                    is_remote = True
                if isinstance(task, PackTask):
                    packer.pack(task)
                else:
                    packer.segment(task)
            self._sent_files.reader_ends()
        finally:
            packer.close()

    def _finish_sent(self, root_fd: int, sink: ChunkSink, assembly: Assembly) -> None:
        packer = self._packer(root_fd, sink, assembly)
        try:
            self._sent_files.run(packer.finish)
        finally:
            packer.close()

    def _packer(self, root_fd: int, sink: ChunkSink, assembly: Assembly) -> Packer:
        builder = ChunkBuilder(root_fd, self._crew.check)
        return Packer(
            builder, sink, assembly, self._crew, self._meter, self._occupations, self._warnings, self._sent_files
        )

    def _next_task(self) -> PackTask | SegmentTask | None:
        with Stopwatch() as watch:
            task = self._tasks.get()
        self._occupations.add(Cause.SCAN, watch.seconds)
        return task

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead.abort()
        self._processes.abort()
        self._engine.abort()

    def _summary(self, table: list[Chunk], totals: ScanTotals, parent: str, last_group: int) -> SnapshotSummary:
        return SnapshotSummary(
            id=self._id,
            parent=parent,
            host=self._host,
            workspace=self._request.workspace,
            start_time_ns=self._start_ns,
            commit_time_ns=time.time_ns() + self._repository.store.clock_ahead_ns,
            agent_version=version(),
            totals=totals,
            chunks=len(table),
            raw_bytes=sum(chunk.raw_size for chunk in table),
            stored_bytes=sum({chunk.id: chunk.stored_size for chunk in table}.values()),
            warnings=self._warnings.count,
            last_hard_link_group=last_group,
            clock_ahead_ns=self._clock_ahead_ns,
        )
