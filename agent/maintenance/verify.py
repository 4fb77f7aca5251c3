"""A verification from start to end: manifests -> what is listed, or read and hashed -> who needs what is damaged."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from agent.errors import DamagedChunk, DamagedSnapshot, DataLossError, SnapshotNotFoundError
from agent.events import Direction, Emit, OperationResult, Stage, VerifyReport
from agent.maintenance.attribution import MAX_CHUNKS, BrokenManifest, attribute, broken_manifest
from agent.maintenance.pace import Pace
from agent.maintenance.reading import Reading
from agent.maintenance.request import VerifyRequest
from agent.pipeline.crew import Crew
from agent.pipeline.meter import Meter, Reporter
from agent.pipeline.occupation import Occupations
from agent.pipeline.warnings import Warnings
from agent.pipeline.workers import worker_count
from agent.repository import keys
from agent.repository.model import Chunk
from agent.repository.presence import Fault, find_faults, is_there
from agent.repository.repository import Repository
from agent.repository.validate import ArchiveCheck
from agent.storage.choice import EngineAccount
from agent.storage.engine import TransferEngine
from agent.storage.open import account_of, open_store, running_engine

STAGES = (Stage.INDEX, Stage.DOWNLOAD, Stage.VERIFY)

MANIFESTS_AT_ONCE = 8
MANIFESTS_AHEAD = 32
"""Manifests that are read at the same time, and those whose chunk tables are in memory at once."""

SHOWN = 3
"""Files or snapshots that the message names."""


def run(request: VerifyRequest, emit: Emit, cancel: threading.Event) -> OperationResult:
    """Verifies one snapshot or all; blocks until it is done, and writes nothing to the store.

    Raises:
        DataLossError: chunks or manifests are damaged or missing; it names them, their snapshots and their files.
        GpusnapError: it failed otherwise, or was cancelled.
    """
    store = open_store(request.storage, request.transfer.retry_seconds)
    try:
        store.check()
        return _Verification(request, Repository(store), emit, cancel).run()
    finally:
        store.close()


_Read = tuple[str, list[Chunk]] | BrokenManifest | None
"""A snapshot's id and chunk table; ``None`` if it is gone."""


class _Verification:
    """The state of one verification while it runs."""

    def __init__(self, request: VerifyRequest, repository: Repository, emit: Emit, cancel: threading.Event) -> None:
        self._request = request
        self._repository = repository
        self._emit = emit
        self._meter = Meter(STAGES, leading=Stage.VERIFY)
        self._occupations = Occupations()
        self._warnings = Warnings()
        self._crew = Crew(cancel, on_stop=self._abort)
        self._engine: TransferEngine | None = None
        self._sound: list[str] = []
        self._broken: list[BrokenManifest] = []
        self._chunks: dict[Chunk, None] = {}

    def run(self) -> OperationResult:
        """Verifies."""
        with Reporter(self._meter, self._emit), self._crew.work():
            self._read_manifests()
            self._look_for_chunk_lists()
            faults = self._read() if self._request.full else self._look()
            found = attribute(self._repository, faults, self._sound, self._crew.check)
        self._warnings.emit(self._emit)
        broken = self._broken + found.broken
        if broken or found.chunks:
            raise _data_loss(broken, found.chunks, len(faults))
        return self._result()

    def _abort(self) -> None:
        if self._engine is not None:
            self._engine.abort()

    def _read_manifests(self) -> None:
        name = self._request.snapshot
        ids = [self._repository.resolve(name)] if name else self._repository.snapshot_ids()
        self._meter.expect(Stage.INDEX, entries_total=len(ids))
        with ThreadPoolExecutor(MANIFESTS_AT_ONCE, thread_name_prefix="manifests") as pool:
            for start in range(0, len(ids), MANIFESTS_AHEAD):
                for read in pool.map(self._read_manifest, ids[start : start + MANIFESTS_AHEAD]):
                    self._meter.add(Stage.INDEX, entries=1)
                    if isinstance(read, BrokenManifest):
                        self._broken.append(read)
                    elif read is not None:
                        self._sound.append(read[0])
                        self._chunks.update(dict.fromkeys(read[1]))

    def _read_manifest(self, snapshot_id: str) -> _Read:
        """Reads a manifest, all of it if this is a full verification."""
        try:
            manifest = self._repository.manifest(snapshot_id)
            if self._request.full:
                check = ArchiveCheck()
                for entry in manifest.entries():
                    self._crew.check()
                    check.see(entry)
                manifest.check_warnings()
            return snapshot_id, manifest.chunks()
        except SnapshotNotFoundError:
            # What an interrupted snapshot left, or deleted meanwhile.
            if self._request.snapshot:
                raise
            return None
        except DataLossError as error:
            return broken_manifest(snapshot_id, error)

    def _look_for_chunk_lists(self) -> None:
        """Standard tools need the list of chunks; no operation does, so a missing one is a warning."""
        below = keys.SNAPSHOTS + (self._sound[0] if self._request.snapshot and self._sound else "")
        listed = {found.key for found in self._repository.store.list(below)}
        for snapshot_id in self._sound:
            key = keys.chunk_list(snapshot_id)
            if key not in listed and keys.manifest(snapshot_id) in listed and not is_there(self._repository.store, key):
                message = f"{key} is missing: standard tools cannot restore the snapshot, gpusnap can"
                self._warnings.add("CHUNK_LIST_MISSING", message, b"")

    def _look(self) -> list[Fault]:
        self._meter.expect(Stage.VERIFY, entries_total=len(self._chunks))

        def seen(count: int) -> None:
            self._crew.check()
            self._meter.add(Stage.VERIFY, entries=count)

        return find_faults(self._repository.store, self._chunks, seen)

    def _read(self) -> list[Fault]:
        self._meter.expect(Stage.DOWNLOAD, self._stored_bytes)
        self._meter.expect(Stage.VERIFY, self._raw_bytes, len(self._chunks))
        transfer = self._request.transfer
        threads = worker_count(transfer.workers)
        ahead = transfer.connections + 2 * threads
        pace = Pace(self._request.bytes_per_second, self._crew.check)
        request = self._request
        with running_engine(
            request.storage, transfer, request.staging_dir, Direction.DOWNLOAD, request.measurements
        ) as self._engine:
            reading = Reading(
                self._engine, pace, ahead, threads, self._crew, self._meter, self._occupations, self._emit
            )  # fmt: skip
            return reading.run(self._chunks)

    @property
    def _stored_bytes(self) -> int:
        return sum(chunk.stored_size for chunk in self._chunks)

    @property
    def _raw_bytes(self) -> int:
        return sum(chunk.raw_size for chunk in self._chunks)

    def _result(self) -> OperationResult:
        request = self._request
        stages = self._meter.stages()
        count = len(self._chunks)
        account = EngineAccount("", "")
        if self._engine:
            account = account_of(self._engine, request.storage, request.transfer)
        return OperationResult(
            snapshot_id=self._sound[0] if request.snapshot else "",
            chunks=count,
            chunks_transferred=count if request.full else 0,
            raw_bytes=self._raw_bytes if request.full else 0,
            transferred_bytes=sum(stage.bytes_done for stage in stages if stage.stage is Stage.DOWNLOAD),
            seconds=time.monotonic() - self._meter.started,
            warnings=self._warnings.count,
            engine=account.engine,
            engine_reason=account.reason,
            # What a limit held back says nothing about an engine.
            measurements=account.measurements if not request.bytes_per_second else (),
            occupation=self._occupations.totals(),
            stages=stages,
            verify=VerifyReport(request.full, len(self._sound), count, self._stored_bytes),
        )


def _data_loss(broken: list[BrokenManifest], damaged: list[DamagedChunk], faults: int) -> DataLossError:
    snapshots = dict.fromkeys(item.snapshot_id for chunk in damaged for item in chunk.snapshots)
    parts = []
    if damaged:
        first = damaged[0]
        number = faults if faults > MAX_CHUNKS else len(damaged)
        count = "1 chunk is" if number == 1 else f"{number:,} chunks are"
        parts.append(f"{count} damaged, needed by {_some(list(snapshots))}; chunk {first.chunk_id}: {first.problem}")
        files = dict.fromkeys(path for chunk in damaged for path in chunk.paths)
        if files:
            parts.append(f"touches {_some([path.decode(errors='backslashreplace') for path in files])}")
    parts += [item.problem for item in broken[:SHOWN]]
    manifests = [DamagedChunk("", item.problem, (), (DamagedSnapshot(item.snapshot_id),)) for item in broken]
    return DataLossError("; ".join(parts), damaged=(*manifests[:MAX_CHUNKS], *damaged))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
