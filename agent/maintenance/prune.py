"""A prune from start to end: survey -> retention -> what nobody needs -> condemn it, or delete what was condemned.

FORMAT.md, "Pruning", says why nothing is lost by it. Every step may be repeated, skipped by a kill, or done by two
prunes at once.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from agent.config.provider import MINIMUM_STORAGE_DAYS
from agent.errors import DataLossError, SnapshotNotFoundError
from agent.events import Emit, OperationResult, PruneReport, SnapshotVerdict, Stage
from agent.maintenance.litter import delete_litter, find_litter
from agent.maintenance.request import PruneRequest
from agent.maintenance.retention import Verdict, judge
from agent.maintenance.survey import Survey, needed_by, needed_by_deleted, survey
from agent.maintenance.sweep import Due, Sweep
from agent.maintenance.tally import Tally
from agent.pipeline.crew import Crew
from agent.pipeline.meter import Meter, Reporter
from agent.pipeline.warnings import Warnings
from agent.repository import condemned, keys
from agent.repository.condemned import Record
from agent.repository.grace import Grace
from agent.repository.repository import Repository
from agent.storage.clock import read_clock
from agent.storage.open import open_store

STAGES = (Stage.INDEX, Stage.DELETE)

DELETED_AT_ONCE = 8
"""Snapshots that are deleted at the same time."""

VERDICTS = 1000
VERDICT_BYTES = 1 << 20
"""Verdicts in the report, and their bytes."""

_DAY = 86400


def run(request: PruneRequest, emit: Emit, cancel: threading.Event) -> OperationResult:
    """Prunes a repository; blocks until it is done.

    Raises:
        DataLossError: a manifest is damaged, so that nobody knows what it needs. Nothing was deleted.
        DeadlinesIgnoredError: the store does not refuse late requests, so that no prune is safe. Nothing was deleted.
        GpusnapError: something could not be listed, read or deleted, or it was cancelled. What it had done is complete.
    """
    store = open_store(request.storage, request.transfer.retry_seconds)
    try:
        store.check()
        return Prune(request, Repository(store), emit, cancel).run()
    finally:
        store.close()


class _Needed(msgspec.Struct, frozen=True):
    """What must stay: chunks that snapshots need which stay, and those that only deleted ones need."""

    by_kept: set[bytes]
    by_deleted: set[bytes]


class _Condemned(msgspec.Struct, frozen=True):
    """What the records say: for each chunk the newest record that condemns it, and the records that are due."""

    by_chunk: dict[bytes, Record]
    due: list[Record]


class Prune:
    """The state of one prune while it runs."""

    def __init__(self, request: PruneRequest, repository: Repository, emit: Emit, cancel: threading.Event) -> None:
        self._request = request
        self._repository = repository
        self._store = repository.store
        self._emit = emit
        self._meter = Meter(STAGES, leading=Stage.DELETE)
        self._warnings = Warnings()
        self._crew = Crew(cancel)
        self._minimum_days = MINIMUM_STORAGE_DAYS.get(request.storage.provider, 0)
        self._freed, self._waiting, self._held, self._early = Tally(), Tally(), Tally(), Tally()
        self._litter = 0

    def run(self) -> OperationResult:
        """Prunes."""
        with Reporter(self._meter, self._emit), self._crew.work():
            info = self._repository.info()
            grace = info.grace if info is not None else Grace()
            verdicts = self._prune(grace) if info is not None else []
        self._warnings.emit(self._emit)
        return OperationResult(
            snapshot_id="",
            seconds=time.monotonic() - self._meter.started,
            warnings=self._warnings.count,
            stages=self._meter.stages(),
            prune=self._report(grace, verdicts),
        )

    def _prune(self, grace: Grace) -> list[Verdict]:
        # The clock first, then the deadlines, then the records, then the manifests: each relies on the one before.
        now = read_clock(self._store)
        if not self._request.dry_run:
            self._store.demand_deadlines(grace.delay)
        records = condemned.list_records(self._store)
        found = survey(self._repository, self._crew.check)
        self._repository.info()  # once more: it must say the same grace
        self._meter.add(Stage.INDEX, entries=len(found.manifests))
        verdicts = self._judge(found, now)
        needed = self._needed(found, verdicts, grace, now)
        self._delete_snapshots(verdicts)
        said = self._read(records, grace, now)
        garbage, due = self._sort(needed, said, grace, now)
        if not self._request.dry_run:
            condemned.write_records(self._store, garbage)
            for record in said.due:
                Sweep(self._store, record, grace, self._deleted, self._crew.check).run(due[record.id])
        litter = find_litter(self._store, found, grace, now)
        if self._request.dry_run:
            self._litter = len(litter)
        else:
            self._litter = delete_litter(self._store, litter, grace, now, self._crew.check)
            self._litter += condemned.remove_settled(self._store, now, grace)
        return verdicts

    def _judge(self, found: Survey, now: int) -> list[Verdict]:
        request = self._request
        summaries = [manifest.summary for manifest in found.manifests]
        return judge(summaries, request.rules, frozenset(request.hosts), frozenset(request.workspaces), now * 10**9)

    def _needed(self, found: Survey, verdicts: list[Verdict], grace: Grace, now: int) -> _Needed:
        staying = {verdict.snapshot.id for verdict in verdicts if verdict.stays}
        kept = [manifest for manifest in found.manifests if manifest.summary.id in staying]
        going = [manifest for manifest in found.manifests if manifest.summary.id not in staying]
        young = [item for item in found.tombstones if now - item.deleted_s < grace.age]
        by_deleted = needed_by(self._repository, going, self._crew.check)
        by_deleted |= needed_by_deleted(self._repository, young, self._warnings, self._crew.check)
        return _Needed(needed_by(self._repository, kept, self._crew.check), by_deleted)

    def _delete_snapshots(self, verdicts: list[Verdict]) -> None:
        def delete(snapshot_id: str) -> None:
            self._crew.check()
            try:
                self._repository.delete_snapshot(snapshot_id)
            except SnapshotNotFoundError:
                pass  # another prune was faster

        if not self._request.dry_run:
            with ThreadPoolExecutor(DELETED_AT_ONCE, thread_name_prefix="delete") as pool:
                list(pool.map(delete, [verdict.snapshot.id for verdict in verdicts if not verdict.stays]))

    def _read(self, records: list[Record], grace: Grace, now: int) -> _Condemned:
        """Reads the records that are not worked off; this after the manifests, so that each was there at that time."""
        by_chunk: dict[bytes, Record] = {}
        due = []
        for record in records:
            if record.done_s is not None:
                continue
            self._crew.check()
            try:
                chunks = condemned.read_record(self._store, record)
            except DataLossError as error:
                self._warnings.add("RECORD_DAMAGED", f"{error.message}; it is set aside", b"")
                if not self._request.dry_run:
                    condemned.mark_done(self._store, record)
                continue
            by_chunk.update(dict.fromkeys(chunks, record))
            if now - record.written_s >= grace.age:
                due.append(record)
        return _Condemned(by_chunk, due)

    def _sort(
        self, needed: _Needed, said: _Condemned, grace: Grace, now: int
    ) -> tuple[list[bytes], dict[str, list[Due]]]:
        """Lists all chunks; returns those to condemn, and those that each record is due to delete."""
        garbage: list[bytes] = []
        due: dict[str, list[Due]] = {record.id: [] for record in said.due}
        for found in self._store.list(keys.CHUNKS):
            self._crew.check()
            chunk = keys.chunk_id(found.key)
            if chunk is None or chunk in needed.by_kept:
                continue
            record = said.by_chunk.get(chunk)
            is_condemned = record is not None and found.modified_s < record.written_s
            # What is not due goes after one grace at the earliest.
            goes_s = now + grace.seconds
            if chunk in needed.by_deleted:
                self._held.add(found.size)
            elif record is not None and is_condemned and record.id in due:
                due[record.id].append(Due(chunk, found.size))
                goes_s = now
            elif is_condemned:
                self._waiting.add(found.size)
            elif now - found.modified_s >= grace.age:
                garbage.append(chunk)
                self._waiting.add(found.size)
            else:
                continue
            if goes_s - found.modified_s < self._minimum_days * _DAY:
                self._early.add(found.size)
        self._expect([item for items in due.values() for item in items])
        return garbage, due

    def _expect(self, due: list[Due]) -> None:
        self._meter.expect(Stage.DELETE, sum(item.size for item in due), len(due))
        if self._request.dry_run:
            for item in due:
                self._freed.add(item.size)

    def _deleted(self, item: Due) -> None:
        self._freed.add(item.size)
        self._meter.add(Stage.DELETE, item.size, 1)

    def _report(self, grace: Grace, verdicts: list[Verdict]) -> PruneReport:
        shown = [verdict for verdict in verdicts if not verdict.stays] + [item for item in verdicts if item.stays]
        return PruneReport(
            dry_run=self._request.dry_run,
            grace_seconds=grace.seconds,
            kept=sum(verdict.stays for verdict in verdicts),
            removed=sum(not verdict.stays for verdict in verdicts),
            verdicts=_bounded(shown),
            freed=self._freed.total,
            condemned=self._waiting.total,
            held=self._held.total,
            litter=self._litter,
            minimum_storage_days=self._minimum_days,
            early=self._early.total,
        )


def _bounded(verdicts: list[Verdict]) -> tuple[SnapshotVerdict, ...]:
    """Returns as many verdicts as a message holds."""
    shown: list[SnapshotVerdict] = []
    room = VERDICT_BYTES
    for verdict in verdicts[:VERDICTS]:
        snapshot = verdict.snapshot
        room -= len(snapshot.host) + len(snapshot.workspace) + 100
        if room < 0:
            break
        shown.append(SnapshotVerdict(snapshot.id, snapshot.host, snapshot.workspace, verdict.reasons))
    return tuple(shown)
