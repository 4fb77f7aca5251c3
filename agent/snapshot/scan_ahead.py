"""The scan in a thread of its own, a bounded number of entries ahead of the plan."""

from __future__ import annotations

from collections.abc import Iterator

from agent.events import Emit, ScanTotals, Stage
from agent.pipeline.crew import Allowance, Channel, Crew, Stopwatch
from agent.pipeline.meter import Meter
from agent.repository.model import Entry
from agent.snapshot.compare import compare
from agent.snapshot.parent import Parent
from agent.snapshot.scan import Scanner
from agent.snapshot.tally import Tally
from agent.snapshot.unchanged import UnchangedRun

BATCH = 256
ENTRIES_AHEAD = 32_768
"""Entries between scan and plan at most (about 20 MB), so the totals of most workspaces are known early."""


class ScanAhead:
    """Scans, compares with the parent, and hands over what was found in batches.

    Args:
        scanner: finds the entries.
        parent: what they are compared with; ``None`` for nothing.
        crew: whose threads scan and take.
        meter: told what was scanned, and at the end what there is to pack.
        emit: gets the totals at the end.
    """

    def __init__(self, scanner: Scanner, parent: Parent | None, crew: Crew, meter: Meter, emit: Emit) -> None:
        self._scanner = scanner
        self._chunks = parent.chunks if parent is not None else []
        self._meter = meter
        self._emit = emit
        self._allowance = Allowance(crew, ENTRIES_AHEAD)
        self._batches: Channel[tuple[list[Entry | UnchangedRun], int] | None] = Channel(crew, ENTRIES_AHEAD // BATCH)

    def scan(self) -> None:
        """Scans to the end; for a thread of the crew."""
        tally = Tally()
        watch = Stopwatch()
        found = compare(self._scanner.entries(), self._chunks)
        while True:
            with watch:
                batch, count = self._next_batch(found, tally)
            if not batch:
                break
            self._meter.add(Stage.SCAN, entries=count, busy_seconds=watch.seconds)
            self._allowance.take(count)
            self._batches.put((batch, count))
        totals = tally.totals(complete=True)
        self._expect(totals)
        self._emit(totals)
        self._batches.put(None)

    def found(self) -> Iterator[Entry | UnchangedRun]:
        """Yields what was found; for another thread of the crew."""
        while (item := self._batches.get()) is not None:
            batch, count = item
            self._allowance.give(count)
            yield from batch

    @staticmethod
    def _next_batch(found: Iterator[Entry | UnchangedRun], tally: Tally) -> tuple[list[Entry | UnchangedRun], int]:
        batch: list[Entry | UnchangedRun] = []
        count = 0
        for item in found:
            batch.append(item)
            if isinstance(item, UnchangedRun):
                tally.add_all(item.totals)
                count += len(item.saved)
            else:
                tally.add(item)
                count += 1
            if count >= BATCH:
                break
        return batch, count

    def _expect(self, totals: ScanTotals) -> None:
        self._meter.expect(Stage.SCAN, entries_total=totals.entries)
        self._meter.expect(Stage.PACK, totals.bytes, totals.entries)
