"""A restore from start to end: manifest -> plan -> download || decompress || write -> finish."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator

from agent.config.model import TransferConfig
from agent.errors import DataLossError, LocalIoError, LocalPermissionError, NoSpaceError, describe
from agent.events import Begun, ChunkKind, Direction, Emit, OperationResult, PresentReport, Stage
from agent.pipeline.crew import Crew, Stopwatch
from agent.pipeline.local_errors import local_errors
from agent.pipeline.meter import Meter, Reporter
from agent.pipeline.standby_workers import StandbyWorkers
from agent.pipeline.worker_processes import WorkerProcesses
from agent.pipeline.workers import free_memory, usable_cores, worker_count
from agent.repository.manifest_reader import ManifestReader, read_local
from agent.repository.model import Entry, SnapshotSummary
from agent.repository.repository import Repository
from agent.restore.ahead import Ahead
from agent.restore.chunk_writer import ChunkWriter, ChunkWriting
from agent.restore.directories import Directories
from agent.restore.fetch import Fetcher, loans_for
from agent.restore.hands import Hand, Hands
from agent.restore.keep import Keeper
from agent.restore.kept import KEPT_AFTER
from agent.restore.links import further_names, intact_groups
from agent.restore.marks import Marks
from agent.restore.metadata import Metadata
from agent.restore.notes import Notes
from agent.restore.page_cache import bypasses
from agent.restore.plan import Job, RestorePlan, make_plan
from agent.restore.planning import Planning, in_order
from agent.restore.present import Comparing
from agent.restore.publisher import Publisher
from agent.restore.remote import MODULE, RemoteWriter
from agent.restore.request import IfNotEmpty, RestoreRequest
from agent.restore.reuse import reuse
from agent.restore.selection import Selection
from agent.restore.target import Target, open_target, taken_up
from agent.restore.task import Setup
from agent.restore.work import Worker
from agent.restore.writer import Writer
from agent.storage.engine import TransferEngine
from agent.storage.open import account_of, open_store, running_engine

SMALL_BYTES = 64 << 20
SMALL_ENTRIES = 2000
"""Below both, one worker in the restore's own process takes about as long as worker processes take to start."""

STAGES = (Stage.DOWNLOAD, Stage.DECOMPRESS, Stage.WRITE, Stage.FINISH)


def run(
    request: RestoreRequest, emit: Emit, cancel: threading.Event, standby: StandbyWorkers | None = None
) -> OperationResult:
    """Restores a snapshot; blocks until it is complete.

    Args:
        request: what is to be restored.
        emit: gets the events.
        cancel: ends it.
        standby: worker processes that wait already.

    Raises:
        DataLossError: chunks or the manifest are damaged or missing. What is undamaged was restored.
        GpusnapError: it failed otherwise, or was cancelled. No unfinished file is left in the target, but for large
            ones in its work folder that the next restore can go on with (``agent.restore.kept``).
    """
    request = taken_up(request)
    selection = Selection(request.paths)
    store = open_store(request.storage, request.transfer.retry_seconds)
    try:
        store.check()
        repository = Repository(store)
        snapshot_id = repository.resolve(request.snapshot)
        manifest_path = os.path.join(request.staging_dir, "manifest")
        with local_errors(f"the manifest cannot be written to the staging folder {request.staging_dir}"):
            repository.download_manifest(snapshot_id, manifest_path)
        manifest = read_local(manifest_path)
        repository.check_identity(manifest, snapshot_id)
        workers = _worker_count(request, manifest.summary)
        # Both start, and the first chunks are on their way, while the plan is made.
        with (
            contextlib.closing(WorkerProcesses(MODULE, workers if workers > 1 else 0, standby)) as processes,
            running_engine(
                request.storage, request.transfer, request.staging_dir, Direction.DOWNLOAD, request.measurements
            ) as engine,
            contextlib.closing(Ahead(engine, request.transfer)) as ahead,
        ):
            plan = None
            if selection.everything and request.if_not_empty is IfNotEmpty.FAIL:
                ahead.begin(manifest.chunks(), leaves_segments=loans_for(workers, engine) is not None)
                # Damage is found before anything is written.
                manifest.check_hashes()
            else:
                plan = make_plan(manifest, selection)
            restore = _Restore(request, selection, manifest, manifest_path, plan, engine, ahead, emit, cancel)
            return restore.run(workers, processes)
    finally:
        store.close()


class _Restore:
    """The state of one restore while it runs.

    Args:
        plan: what to restore; ``None`` for a whole snapshot, whose plan is made meanwhile.
    """

    def __init__(
        self,
        request: RestoreRequest,
        selection: Selection,
        manifest: ManifestReader,
        manifest_path: str,
        plan: RestorePlan | None,
        engine: TransferEngine,
        ahead: Ahead,
        emit: Emit,
        cancel: threading.Event,
    ) -> None:
        self._request = request
        self._selection = selection
        self._manifest = manifest
        self._manifest_path = manifest_path
        self._made = plan
        self._engine = engine
        self._ahead = ahead
        self._emit = emit
        self._cancel = cancel
        self._notes = Notes(Meter(STAGES, leading=Stage.WRITE), emit)
        self._metadata = Metadata(self._notes.warnings)
        self._bypasses_cache = bypasses(request.transfer.page_cache, self._large_bytes(), free_memory(), usable_cores())
        self._numbers = itertools.count()
        self._comparing = Comparing.NOT
        self._after_reuse: RestorePlan | None = None
        self._is_kept = False

    def run(self, workers: int, processes: WorkerProcesses) -> OperationResult:
        """Runs the pipeline with so many workers: in processes of their own, or the only one in this process."""
        if self._made is not None:
            self._follow(self._made)
        target = open_target(self._request)
        succeeded = False
        try:
            target.begin(self._manifest.summary.id)
            if target.was_empty and not target.has_taken_over:
                target.require_room(*self._room())
            else:
                self._comparing = self._comparison(target)
            self._emit(Begun(self._manifest.summary.id))
            with Reporter(self._notes.meter, self._emit):
                self._run(target, workers, processes)
            succeeded = True
        finally:
            target.close(succeeded, self._is_kept)
        self._notes.warnings.emit(self._emit)
        return self._result()

    def _run(self, target: Target, workers: int, processes: WorkerProcesses) -> None:
        def stop() -> None:
            processes.abort()
            self._engine.abort()

        crew = Crew(self._cancel, on_stop=stop)
        with _named(self._request.target), crew.work():
            if self._made is None and not self._is_fresh:
                self._follow(make_plan(self._manifest, self._selection))
            planning = None
            if self._made is None:
                planning = Planning(self._manifest, self._selection, self._ahead, crew.check)
            marks = planning.directories if planning else self._plan.directories
            mode = self._request.if_not_empty
            directories = Directories(target, self._manifest, self._selection, marks, mode, self._is_fresh, crew)
            directories.prepare()
            with self._hands(target, workers, processes, crew) as hands:
                self._move(target, planning, marks, hands, crew)
            with Stopwatch() as watch:
                links = self._link(target, crew)
                if mode is IfNotEmpty.MIRROR and not self._notes.damage.chunks:
                    directories.remove_extraneous()
                # Before the metadata: removing it changes the target's own time.
                target.end_work()
                directories.apply_metadata(self._metadata)
            self._notes.meter.add(Stage.FINISH, 0, links + self._plan.totals.directories, watch.seconds)
        if self._notes.damage.chunks:
            raise self._data_loss()

    @property
    def _plan(self) -> RestorePlan:
        assert self._made is not None
        return self._made

    @property
    def _left(self) -> RestorePlan:
        """What has to be fetched."""
        return self._after_reuse or self._plan

    def _follow(self, plan: RestorePlan) -> None:
        self._made = plan
        self._emit(plan.totals)
        files = plan.totals.models.files + plan.totals.other.files
        self._notes.meter.expect(Stage.WRITE, plan.content_bytes, files)

    def _room(self) -> tuple[int, int]:
        """Returns the bytes and the entries that are to be written."""
        if self._made is not None:
            return self._made.content_bytes, self._made.totals.entries
        totals = self._manifest.summary.totals
        return totals.models.bytes + totals.other.bytes, totals.entries

    def _large_bytes(self) -> int:
        if self._made is not None:
            return sum(file.entry.data_size for file in self._made.large_files())
        return sum(chunk.raw_size for chunk in self._manifest.chunks() if chunk.kind is ChunkKind.SEGMENT)

    def _comparison(self, target: Target) -> Comparing:
        # Without its work folder, what an earlier run has written may be from before the machine went down.
        is_sure = target.times_are_sure and (target.has_taken_over or not self._request.resume)
        return Comparing.TIMES if is_sure and not self._request.checksum else Comparing.CONTENT

    @property
    def _is_fresh(self) -> bool:
        return self._comparing is Comparing.NOT

    @contextlib.contextmanager
    def _hands(self, target: Target, workers: int, processes: WorkerProcesses, crew: Crew) -> Iterator[list[Hand]]:
        """What each working thread works with; large files that are not complete in the end are removed, or kept."""
        hands = [
            Hand(self._chunks(target, workers, processes, crew), Publisher(self._writer(target), self._notes))
            for _ in range(workers)
        ]
        try:
            yield hands
        except BaseException as error:
            self._is_kept = describe(crew.cause(error)).reason in KEPT_AFTER
            raise
        finally:
            for hand in hands:
                hand.close()
            with contextlib.closing(self._writer(target)) as writer:
                for file in self._made.large_files() if self._made else ():
                    if file.is_begun and not file.is_published:
                        writer.large.discard(file, self._is_kept)

    def _reuse(self, target: Target, hands: list[Hand], crew: Crew) -> RestorePlan:
        groups: frozenset[int] = frozenset()
        if self._plan.has_groups:
            groups = intact_groups(target.root_fd, self._manifest, self._selection, self._plan.promoted, crew.check)
        with contextlib.closing(Keeper(target.root_fd, self._comparing, self._metadata)) as keeper:
            helpers = Hands(hands, self._notes, crew)
            return reuse(self._plan, self._manifest, target.root_fd, helpers, keeper, groups, self._notes)

    def _move(
        self, target: Target, planning: Planning | None, directories: Marks, hands: list[Hand], crew: Crew
    ) -> None:
        jobs: Iterable[Job]
        if planning is not None:
            crew.start("plan", lambda: self._follow(planning.make()))
            jobs = planning.jobs()
        else:
            if not self._is_fresh:
                self._after_reuse = self._reuse(target, hands, crew)
            jobs = in_order(self._left, self._ahead)
        workers = len(hands)
        most = chunks_ahead(self._request.transfer, workers)
        fetcher = Fetcher(self._engine, self._ahead, jobs, most, loans_for(workers, self._engine), crew)
        crew.start("fetch", fetcher.run)
        for number, hand in enumerate(hands):
            prefers_unfetched = number % 2 == 1
            worker = Worker(fetcher, self._manifest, self._selection, directories, hand, self._notes, prefers_unfetched)
            crew.start(f"write-{number}", worker.run)
        crew.join()
        for file in self._left.empty:
            hands[0].publisher.publish_empty(file)

    def _chunks(self, target: Target, workers: int, processes: WorkerProcesses, crew: Crew) -> ChunkWriting:
        if workers > 1:
            return RemoteWriter(processes, self._setups(), target.folders, crew)
        return ChunkWriter(
            self._manifest,
            self._selection,
            self._writer(target),
            Keeper(target.root_fd, self._comparing, self._metadata),
            self._metadata,
            self._comparing,
            self._notes.warnings,
            crew.check,
        )

    def _setups(self) -> Iterator[Setup]:
        for number in self._numbers:
            yield Setup(
                number,
                self._manifest_path,
                self._request.paths,
                self._request.if_not_empty,
                self._bypasses_cache,
                self._comparing,
            )

    def _writer(self, target: Target) -> Writer:
        return Writer(
            target.folders,
            next(self._numbers),
            self._request.if_not_empty,
            self._metadata,
            self._is_fresh,
            self._bypasses_cache,
            self._notes.warnings,
        )

    def _link(self, target: Target, crew: Crew) -> int:
        """Makes further names of hard-linked files; those of lost files are left out. Returns how many."""
        if not self._plan.has_hard_links:
            return 0
        lost = self._notes.damage.paths
        count = 0
        with contextlib.closing(self._writer(target)) as writer:
            for entry, original in self._further_names(crew):
                if original in lost:
                    lost.add(entry.path)
                elif original in self._notes.not_made:
                    message = "the file it is a further name of could not be restored"
                    self._notes.warnings.add("LINK_NOT_RESTORED", message, entry.path)
                else:
                    writer.link(entry, original)
                    count += 1
        return count

    def _further_names(self, crew: Crew) -> Iterator[tuple[Entry, bytes]]:
        for found in further_names(self._manifest, self._selection, self._plan.promoted):
            crew.check()
            yield found

    def _data_loss(self) -> DataLossError:
        first = self._notes.damage.chunks[0]
        files = sorted(self._notes.damage.paths)
        shown = ", ".join(path.decode(errors="backslashreplace") for path in files[:3])
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        return DataLossError(
            f"{len(self._notes.damage.chunks)} chunks of {self._manifest.summary.id} are damaged; "
            f"chunk {first.chunk_id}: {first.problem}; not restored: {shown}{more}",
            damaged=tuple(self._notes.damage.chunks[:100]),
        )

    def _result(self) -> OperationResult:
        stages = self._notes.meter.stages()
        downloaded = sum(stage.bytes_done for stage in stages if stage.stage is Stage.DOWNLOAD)
        present = self._notes.present
        account = account_of(self._engine, self._request.storage, self._request.transfer)
        return OperationResult(
            snapshot_id=self._manifest.summary.id,
            totals=self._plan.totals,
            chunks=self._plan.chunks,
            chunks_transferred=self._left.chunks,
            raw_bytes=sum(job.chunk.raw_size for job in self._plan.jobs()),
            transferred_bytes=downloaded,
            seconds=time.monotonic() - self._notes.meter.started,
            warnings=self._notes.warnings.count,
            engine=account.engine,
            engine_reason=account.reason,
            measurements=account.measurements,
            occupation=self._notes.occupations.totals(),
            stages=stages,
            present=PresentReport(present.files, present.bytes, present.copied) if not self._is_fresh else None,
        )


@contextlib.contextmanager
def _named(target: bytes) -> Iterator[None]:
    """Lets errors about local files, most of which know only paths inside the target, name the target."""
    failed = f"restoring into {os.fsdecode(target)} failed"
    try:
        with local_errors(failed):
            yield
    except (LocalIoError, LocalPermissionError, NoSpaceError) as error:
        if error.message.startswith(failed):
            raise
        raise type(error)(f"{failed}: {error.message}", hint=error.hint, metadata=error.metadata) from error


def chunks_ahead(transfer: TransferConfig, workers: int) -> int:
    """Returns how many chunks are fetched ahead at most: one for each connection, and some for every worker.

    What they take is bounded by the engine's budget.
    """
    return transfer.connections + 2 * workers


def _worker_count(request: RestoreRequest, summary: SnapshotSummary) -> int:
    """Returns how many workers write; unless told, one for a small snapshot."""
    content = summary.totals.models.bytes + summary.totals.other.bytes
    is_small = content < SMALL_BYTES and summary.totals.entries < SMALL_ENTRIES
    return 1 if is_small and not request.transfer.workers else worker_count(request.transfer.workers)
