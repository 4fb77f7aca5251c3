"""A snapshot from start to end: scan -> plan -> pack -> compress -> upload -> commit, all at the same time."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

from agent import __version__
from agent.events import Cause, ChunkKind, Emit, OperationResult, ScanTotals, Stage
from agent.pipeline.beneath import DIRECTORY_FLAGS, Beneath
from agent.pipeline.crew import Allowance, Channel, Crew, Stopwatch, worker_count
from agent.pipeline.local_errors import local_errors
from agent.pipeline.meter import Meter, Reporter
from agent.pipeline.occupation import Occupations
from agent.pipeline.worker_processes import WorkerProcesses
from agent.repository import keys
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Chunk, Entry, SnapshotSummary
from agent.repository.repository import Repository
from agent.repository.tar import END_OF_ARCHIVE
from agent.snapshot.assembly import Assembly, SnapshotWarnings
from agent.snapshot.builder import ChunkBuilder
from agent.snapshot.filters import Filter
from agent.snapshot.known import read_known
from agent.snapshot.packer import LargeFile, Packer, PackTask, SegmentTask
from agent.snapshot.plan import LargePlan, PackPlan, plan
from agent.snapshot.remote import MODULE, RemoteBuilder
from agent.snapshot.request import SnapshotRequest
from agent.snapshot.scan import Scanner
from agent.snapshot.sink import ChunkSink
from agent.snapshot.source import open_file
from agent.storage.engine import TransferEngine
from agent.storage.open import engine_reason, open_store, running_engine

STAGES = (Stage.SCAN, Stage.PACK, Stage.COMPRESS, Stage.UPLOAD, Stage.COMMIT)

SCAN_BATCH = 256
SCAN_BATCHES_AHEAD = 128
"""The scan runs ahead by at most 32,768 entries (about 20 MB), so the totals of most workspaces are known early."""

SMALL_BYTES = 64 << 20
SMALL_ENTRIES = 2000
"""Worker processes start once either is exceeded: below, threads take no longer than processes take to start."""

ENTRIES_IN_FLIGHT = 32_768
"""Entries between the plan and the manifest at most; with ``plan.MAX_PACK_ENTRIES`` it is at least two packs."""


def run(request: SnapshotRequest, emit: Emit, cancel: threading.Event) -> OperationResult:
    """Makes a snapshot; blocks until it is committed.

    Raises:
        GpusnapError: it failed, or was cancelled. Then no snapshot is listed, and what it uploaded is garbage.
    """
    chosen = Filter(request.exclude, request.include, request.exclude_caches)
    store = open_store(request.storage, request.transfer.retry_seconds)
    try:
        store.check()
        repository = Repository(store)
        repository.ensure()
        with (
            running_engine(request.storage, request.transfer, request.staging_dir) as engine,
            contextlib.closing(WorkerProcesses(MODULE, 0)) as processes,
        ):
            return _Snapshot(request, chosen, repository, engine, processes, emit, cancel).run()
    finally:
        store.close()


class _Snapshot:
    """The state of one snapshot while it is made."""

    def __init__(
        self,
        request: SnapshotRequest,
        chosen: Filter,
        repository: Repository,
        engine: TransferEngine,
        processes: WorkerProcesses,
        emit: Emit,
        cancel: threading.Event,
    ) -> None:
        self._request = request
        self._repository = repository
        self._engine = engine
        self._emit = emit
        self._host = socket.gethostname()
        self._start_ns = time.time_ns()
        self._id = keys.new_snapshot_id(self._start_ns)
        self._warnings = SnapshotWarnings()
        self._meter = Meter(STAGES, leading=Stage.PACK)
        self._occupations = Occupations()
        self._processes = processes
        self._crew = Crew(cancel, on_stop=self._stop)
        self._scanner = Scanner(request.workspace, chosen, request.scan, request.one_file_system, self._warnings)
        self._batches: Channel[list[Entry] | None] = Channel(self._crew, SCAN_BATCHES_AHEAD)
        self._workers = worker_count(request.transfer.workers)
        # A small workspace is saved sooner than processes start.
        self._uses_processes = self._workers > 1 and request.transfer.workers > 0
        self._planned_bytes = self._planned_entries = 0
        self._tasks: Channel[PackTask | SegmentTask | None] = Channel(self._crew, 2 * self._workers)
        self._allowance = Allowance(self._crew, ENTRIES_IN_FLIGHT)

    def run(self) -> OperationResult:
        """Runs the pipeline and commits."""
        with local_errors("the snapshot stopped at a local file"), self._crew.work():
            root_fd = os.open(self._request.workspace, DIRECTORY_FLAGS)
            try:
                with Reporter(self._meter, self._emit):
                    return self._run(root_fd)
            finally:
                os.close(root_fd)

    def _run(self, root_fd: int) -> OperationResult:
        manifest_path = os.path.join(self._request.staging_dir, "manifest")
        known = read_known(self._repository, self._host, self._request.workspace, self._warnings)
        sink = ChunkSink(self._engine, known.chunks, self._crew, self._meter, self._occupations, self._emit)
        with open(manifest_path, "xb") as file:
            writer = ManifestWriter(file)
            assembly = Assembly(writer, self._allowance, self._warnings)
            self._move(root_fd, sink, assembly)
            with Stopwatch() as watch:
                end = sink.put_small(END_OF_ARCHIVE, ChunkKind.END)
                with Stopwatch() as last_uploads:
                    sink.wait()
                # No thread works any more: all of them would wait for the store.
                self._occupations.add(Cause.STORE, last_uploads.seconds * self._workers)
                table = sink.table([*assembly.chunks, end])
                summary = self._summary(table, assembly.totals, known.parent)
                writer.finish(summary, table, self._warnings.kept)
        with watch:
            self._commit(manifest_path, table)
        self._meter.add(Stage.COMMIT, os.path.getsize(manifest_path), busy_seconds=watch.seconds)
        self._warnings.emit(self._emit)
        return OperationResult(
            snapshot_id=self._id,
            totals=summary.totals,
            chunks=summary.chunks,
            chunks_transferred=sink.transferred_chunks,
            raw_bytes=summary.raw_bytes,
            transferred_bytes=sink.transferred_bytes,
            seconds=time.monotonic() - self._meter.started,
            warnings=self._warnings.count,
            engine=self._engine.name,
            engine_reason=engine_reason(self._request.storage, self._request.transfer),
            occupation=self._occupations.totals(),
            stages=self._meter.stages(),
        )

    def _move(self, root_fd: int, sink: ChunkSink, assembly: Assembly) -> None:
        self._crew.start("scan", self._scan)
        self._crew.start("plan", lambda: self._plan(root_fd, sink, assembly))
        for number in range(self._workers):
            self._crew.start(f"pack-{number}", lambda: self._pack(root_fd, sink, assembly))
        self._crew.join()

    def _scan(self) -> None:
        batch: list[Entry] = []
        watch = Stopwatch()
        entries = self._scanner.entries()
        while True:
            with watch:
                batch = []
                for entry in entries:
                    batch.append(entry)
                    if len(batch) == SCAN_BATCH:
                        break
            if not batch:
                break
            self._meter.add(Stage.SCAN, entries=len(batch), busy_seconds=watch.seconds)
            self._batches.put(batch)
        totals = self._scanner.totals
        self._expect(totals)
        self._emit(totals)
        self._batches.put(None)

    def _expect(self, totals: ScanTotals) -> None:
        content = totals.models.bytes + totals.other.bytes
        self._meter.expect(Stage.SCAN, entries_total=totals.entries)
        self._meter.expect(Stage.PACK, content, totals.entries)

    def _scanned(self) -> Iterator[Entry]:
        while (batch := self._batches.get()) is not None:
            yield from batch

    def _plan(self, root_fd: int, sink: ChunkSink, assembly: Assembly) -> None:
        # Only for large files that cannot be opened or have no content: those never reach a packing thread.
        packer = self._packer(root_fd, sink, assembly)
        with Beneath(root_fd) as beneath:
            for number, planned in enumerate(plan(self._scanned(), self._request.scan.large_file_size)):
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
        finally:
            packer.close()

    def _packer(self, root_fd: int, sink: ChunkSink, assembly: Assembly) -> Packer:
        builder = ChunkBuilder(root_fd, self._crew.check)
        return Packer(builder, sink, assembly, self._crew, self._meter, self._occupations, self._warnings)

    def _next_task(self) -> PackTask | SegmentTask | None:
        with Stopwatch() as watch:
            task = self._tasks.get()
        self._occupations.add(Cause.SCAN, watch.seconds)
        return task

    def _stop(self) -> None:
        self._processes.abort()
        self._engine.abort()

    def _summary(self, table: list[Chunk], totals: ScanTotals, parent: str) -> SnapshotSummary:
        return SnapshotSummary(
            id=self._id,
            parent=parent,
            host=self._host,
            workspace=self._request.workspace,
            start_time_ns=self._start_ns,
            commit_time_ns=time.time_ns(),
            agent_version=__version__,
            totals=totals,
            chunks=len(table),
            raw_bytes=sum(chunk.raw_size for chunk in table),
            stored_bytes=sum({chunk.id: chunk.stored_size for chunk in table}.values()),
            warnings=self._warnings.count,
        )

    def _commit(self, manifest_path: str, table: list[Chunk]) -> None:
        """Uploads the list of chunks, then the manifest: from then on the snapshot exists."""
        list_path = manifest_path + ".chunks"
        prefix = self._request.storage.prefix.strip("/")
        with open(list_path, "x", encoding="utf-8") as file:
            for chunk in table:
                key = keys.chunk(chunk.id)
                file.write(f"{prefix}/{key}\n" if prefix else f"{key}\n")
        store = self._repository.store
        store.upload(keys.chunk_list(self._id), list_path)
        self._crew.check()
        store.upload(keys.manifest(self._id), manifest_path)
