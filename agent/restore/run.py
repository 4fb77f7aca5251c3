"""A restore from start to end: manifest -> plan -> download || decompress || write -> finish."""

from __future__ import annotations

import contextlib
import os
import threading
import time

from agent.config.model import TransferConfig
from agent.errors import DataLossError
from agent.events import Emit, OperationResult, Stage
from agent.pipeline.crew import Crew, Stopwatch, thread_count
from agent.pipeline.local_errors import local_errors
from agent.pipeline.meter import Meter, Reporter
from agent.pipeline.occupation import Occupations
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_reader import ManifestReader, read_local
from agent.repository.model import EntryType
from agent.repository.repository import Repository
from agent.restore.directories import Directories
from agent.restore.fetch import Damage, Fetcher
from agent.restore.metadata import Metadata
from agent.restore.page_cache import bypasses, free_memory
from agent.restore.plan import RestorePlan, make_plan
from agent.restore.request import IfNotEmpty, RestoreRequest
from agent.restore.selection import Selection
from agent.restore.target import Target, open_target
from agent.restore.work import Worker
from agent.restore.writer import Writer
from agent.storage.engine import TransferEngine
from agent.storage.open import engine_reason, open_store, running_engine

STAGES = (Stage.DOWNLOAD, Stage.DECOMPRESS, Stage.WRITE, Stage.FINISH)


def run(request: RestoreRequest, emit: Emit, cancel: threading.Event) -> OperationResult:
    """Restores a snapshot; blocks until it is complete.

    Raises:
        DataLossError: chunks or the manifest are damaged or missing. What is undamaged was restored.
        GpusnapError: it failed otherwise, or was cancelled. No unfinished file is left in the target.
    """
    selection = Selection(request.paths)
    store = open_store(request.storage, request.transfer.retry_seconds)
    try:
        store.check()
        repository = Repository(store)
        snapshot_id = repository.resolve(request.snapshot)
        manifest_path = os.path.join(request.staging_dir, "manifest")
        with local_errors("the manifest cannot be written to the staging folder"):
            repository.download_manifest(snapshot_id, manifest_path)
        manifest = read_local(manifest_path)
        repository.check_identity(manifest, snapshot_id)
        plan = make_plan(manifest, selection)
        with running_engine(request.storage, request.transfer, request.staging_dir) as engine:
            return _Restore(request, selection, manifest, plan, engine, emit, cancel).run()
    finally:
        store.close()


class _Restore:
    """The state of one restore while it runs."""

    def __init__(
        self,
        request: RestoreRequest,
        selection: Selection,
        manifest: ManifestReader,
        plan: RestorePlan,
        engine: TransferEngine,
        emit: Emit,
        cancel: threading.Event,
    ) -> None:
        self._request = request
        self._selection = selection
        self._manifest = manifest
        self._plan = plan
        self._engine = engine
        self._emit = emit
        self._cancel = cancel
        self._warnings = Warnings()
        self._metadata = Metadata(self._warnings)
        self._damage = Damage()
        large_bytes = sum(file.entry.data_size for file in plan.large_files())
        cores = len(os.sched_getaffinity(0))
        self._bypasses_cache = bypasses(request.transfer.page_cache, large_bytes, free_memory(), cores)
        self._meter = Meter(STAGES, leading=Stage.WRITE)
        self._occupations = Occupations()
        self._transferred = [0, 0]

    def run(self) -> OperationResult:
        """Runs the pipeline."""
        self._emit(self._plan.totals)
        self._meter.expect(Stage.WRITE, self._plan.content_bytes, self._written_entries())
        target = open_target(self._request)
        succeeded = False
        try:
            if target.was_empty:
                target.require_room(self._plan.content_bytes, self._plan.totals.entries)
            with Reporter(self._meter, self._emit):
                self._run(target)
            succeeded = True
        finally:
            target.close(succeeded)
        self._warnings.emit(self._emit)
        return self._result()

    def _run(self, target: Target) -> None:
        crew = Crew(self._cancel, on_stop=self._engine.abort)
        with local_errors(f"restoring into {os.fsdecode(self._request.target)} failed"), crew.work():
            target.begin()
            directories = Directories(target, self._manifest, self._selection, self._request.if_not_empty, crew)
            directories.make()
            self._move(target, crew)
            with Stopwatch() as watch:
                links = self._link(target, crew)
                if self._request.if_not_empty is IfNotEmpty.MIRROR and not self._damage.chunks:
                    directories.remove_extraneous()
                # Before the metadata: removing it changes the target's own time.
                target.end_work()
                directories.apply_metadata(self._metadata)
            self._meter.add(Stage.FINISH, 0, links + self._plan.totals.directories, watch.seconds)
        if self._damage.chunks:
            raise self._data_loss()

    def _move(self, target: Target, crew: Crew) -> None:
        threads = thread_count(self._request.transfer.threads)
        ahead = chunks_ahead(self._request.transfer, threads)
        fetcher = Fetcher(self._engine, self._plan, ahead, threads, crew)
        workers = [self._worker(target, fetcher, crew) for _ in range(threads)]
        crew.start("fetch", fetcher.run)
        for number, worker in enumerate(workers):
            crew.start(f"write-{number}", worker.run)
        try:
            crew.join()
            for file in self._plan.empty:
                workers[0].publish_empty(file)
        finally:
            with contextlib.closing(self._writer(target, crew)) as writer:
                for file in self._plan.large_files():
                    if file.is_begun and not file.is_published:
                        writer.discard_large(file)

    def _worker(self, target: Target, fetcher: Fetcher, crew: Crew) -> Worker:
        return Worker(
            fetcher,
            self._manifest,
            self._selection,
            self._writer(target, crew),
            self._damage,
            self._engine.name,
            crew,
            self._meter,
            self._occupations,
            self._emit,
        )

    def _writer(self, target: Target, crew: Crew) -> Writer:
        return Writer(target, self._request.if_not_empty, self._metadata, self._bypasses_cache, crew, self._warnings)

    def _link(self, target: Target, crew: Crew) -> int:
        """Makes further names of hard-linked files; those of lost files are left out. Returns how many."""
        if not self._plan.has_hard_links:
            return 0
        lost = self._damage.paths
        count = 0
        writer = self._writer(target, crew)
        try:
            for entry in self._manifest.entries():
                crew.check()
                if entry.type is not EntryType.HARD_LINK or not self._selection.covers(entry.path):
                    continue
                original = self._plan.promoted.get(entry.hard_link_group, entry.link_target)
                if original == entry.path:
                    continue
                if original in lost:
                    lost.add(entry.path)
                elif original in target.not_made:
                    message = "the file it is a further name of could not be restored"
                    self._warnings.add("LINK_NOT_RESTORED", message, entry.path)
                else:
                    writer.link(entry, original)
                    count += 1
        finally:
            writer.close()
        return count

    def _written_entries(self) -> int:
        totals = self._plan.totals
        return totals.models.files + totals.other.files

    def _data_loss(self) -> DataLossError:
        first = self._damage.chunks[0]
        files = sorted(self._damage.paths)
        shown = ", ".join(path.decode(errors="backslashreplace") for path in files[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        return DataLossError(
            f"{len(self._damage.chunks)} chunks of {self._manifest.summary.id} are damaged; "
            f"chunk {first.chunk_id}: {first.problem}; not restored: {shown}{more}",
            damaged=tuple(self._damage.chunks[:100]),
        )

    def _result(self) -> OperationResult:
        stages = self._meter.stages()
        downloaded = sum(stage.bytes_done for stage in stages if stage.stage is Stage.DOWNLOAD)
        jobs = len(self._plan.packs) + len(self._plan.segments)
        return OperationResult(
            snapshot_id=self._manifest.summary.id,
            totals=self._plan.totals,
            chunks=jobs,
            chunks_transferred=jobs,
            raw_bytes=sum(job.chunk.raw_size for job in self._plan.jobs()),
            transferred_bytes=downloaded,
            seconds=time.monotonic() - self._meter.started,
            warnings=self._warnings.count,
            engine=self._engine.name,
            engine_reason=engine_reason(self._request.storage, self._request.transfer),
            occupation=self._occupations.totals(),
            stages=stages,
        )


def chunks_ahead(transfer: TransferConfig, threads: int) -> int:
    """Returns how many chunks are fetched ahead at most: one for each connection, and some for every thread.

    What they take is bounded by the engine's budget.
    """
    return transfer.connections + 2 * threads
