"""Reads chunks through the transfer engine and compares their bytes with their ids."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future

import msgspec

from agent.errors import DataLossError, ObjectNotFoundError
from agent.events import Cause, ChunkFinished, Emit, Stage
from agent.maintenance.pace import Pace
from agent.pipeline.crew import POLL_SECONDS, Crew, Stopwatch
from agent.pipeline.memory import anonymous
from agent.pipeline.meter import Meter
from agent.pipeline.occupation import Occupations, processor_seconds
from agent.repository import frame, keys
from agent.repository.integrity import check_chunk
from agent.repository.model import Chunk
from agent.repository.presence import MISSING, Fault
from agent.storage.engine import Incoming, TransferEngine

ATTEMPTS = 3
"""A chunk that arrives damaged is read so often before it counts as damaged: the damage may be on the way."""


class _Arrival(msgspec.Struct, frozen=True):
    """A chunk that has arrived, or failed to; ``attempt`` counts from 1."""

    chunk: Chunk
    attempt: int
    future: Future[Incoming]


class Reading:
    """Reads every chunk once. Memory is bounded by the engine's budget and one block a thread.

    Args:
        ahead: chunks between the beginning of their download and the end of their check at most.
        threads: threads that hash.
    """

    def __init__(
        self,
        engine: TransferEngine,
        pace: Pace,
        ahead: int,
        threads: int,
        crew: Crew,
        meter: Meter,
        occupations: Occupations,
        emit: Emit,
    ) -> None:
        self._engine = engine
        self._pace = pace
        self._ahead = ahead
        self._threads = threads
        self._crew = crew
        self._meter = meter
        self._occupations = occupations
        self._emit = emit
        self._arrived: queue.SimpleQueue[_Arrival | None] = queue.SimpleQueue()
        self._again: queue.SimpleQueue[_Arrival | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def run(self, chunks: Collection[Chunk]) -> list[Fault]:
        """Returns the chunks that are missing or damaged.

        Raises:
            GpusnapError: the store cannot be read, or the crew stops.
        """
        self._crew.start("fetch", lambda: self._fetch(chunks))
        for number in range(self._threads):
            self._crew.start(f"hash-{number}", self._compare)
        self._crew.join()
        return self._faults

    def _fetch(self, chunks: Collection[Chunk]) -> None:
        under_way = 0
        for chunk in chunks:
            while under_way >= self._ahead:
                under_way -= self._answered()
            self._start(chunk, 1)
            under_way += 1
        while under_way:
            under_way -= self._answered()
        for _ in range(self._threads):
            self._arrived.put(None)

    def _answered(self) -> int:
        """Waits until a chunk is done (1), or starts to read one once more (0)."""
        arrival = self._next(self._again)
        if arrival is None:
            return 1
        self._start(arrival.chunk, arrival.attempt + 1)
        return 0

    def _start(self, chunk: Chunk, attempt: int) -> None:
        self._pace.take(chunk.stored_size)
        future = self._engine.download(keys.chunk(chunk.id), chunk.stored_size)
        future.add_done_callback(lambda done: self._arrived.put(_Arrival(chunk, attempt, done)))

    def _compare(self) -> None:
        block = anonymous(frame.BLOCK_SIZE)
        while True:
            with Stopwatch() as watch:
                arrival = self._next(self._arrived)
            self._occupations.add(Cause.STORE, watch.seconds)
            if arrival is None:
                return
            on_processor = processor_seconds()
            with Stopwatch() as watch:
                is_again = self._is_to_be_read_again(arrival, block)
            self._occupations.worked(watch.seconds, processor_seconds() - on_processor)
            self._again.put(arrival if is_again else None)

    def _is_to_be_read_again(self, arrival: _Arrival, block: memoryview) -> bool:
        chunk = arrival.chunk
        try:
            incoming = arrival.future.result()
        except ObjectNotFoundError:
            self._add_fault(chunk, MISSING)
            return False
        report = incoming.report
        self._meter.add(Stage.DOWNLOAD, report.stored_bytes, busy_seconds=report.seconds)
        begun = time.monotonic()
        try:
            check_chunk(incoming.view, chunk, block)
        except DataLossError as error:
            if arrival.attempt < ATTEMPTS:
                return True
            self._add_fault(chunk, error.message)
            return False
        finally:
            incoming.release()
        self._meter.add(Stage.VERIFY, chunk.raw_size, 1, time.monotonic() - begun)
        self._emit(
            ChunkFinished(
                chunk_id=chunk.id.hex(),
                kind=chunk.kind,
                raw_bytes=chunk.raw_size,
                stored_bytes=report.stored_bytes,
                seconds=report.seconds,
                attempts=report.attempts + arrival.attempt - 1,
                engine=report.engine,
            )
        )
        return False

    def _add_fault(self, chunk: Chunk, problem: str) -> None:
        with self._lock:
            self._faults.append(Fault(chunk, problem))

    def _next(self, arrivals: queue.SimpleQueue[_Arrival | None]) -> _Arrival | None:
        while True:
            self._crew.check()
            try:
                return arrivals.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
