"""The downloads of a benchmark that worker processes do over lent connections, as those of a restore fetch segments."""

from __future__ import annotations

import queue
import threading

import msgspec
from blake3 import blake3

from agent.errors import CancelledError, WorkerCrashedError
from agent.maintenance.benchmark_objects import BenchmarkObjects, wrong_bytes
from agent.maintenance.benchmark_receiver import Received, Task
from agent.pipeline.worker_process import WorkerDiedError
from agent.pipeline.worker_processes import WorkerPlace, WorkerProcesses
from agent.storage.choice import STREAM
from agent.storage.engine import Loans, TransferReport

MODULE = "agent.maintenance.benchmark_receiver"


class Receivers:
    """Worker processes, all of which have loaded what they need. ``fetch`` is for as many threads.

    Args:
        loans: the connections.
        objects: what is fetched.
        size: bytes of each.
        count: how many processes.

    Raises:
        LocalIoError, WorkerCrashedError: one cannot be started.
    """

    def __init__(self, loans: Loans, objects: BenchmarkObjects, size: int, count: int) -> None:
        self._loans = loans
        self._objects = objects
        self._size = size
        self._last = blake3(objects.end).digest()
        self._answers = msgspec.msgpack.Decoder[Received](Received)
        self._lock = threading.Lock()
        self._ended = False
        self.count = count
        self.processor_seconds = 0.0
        """How long they were on a processor for what they have fetched."""
        self._processes = WorkerProcesses(MODULE, count)
        self._places: queue.SimpleQueue[WorkerPlace] = queue.SimpleQueue()
        try:
            for _ in range(count):
                place = WorkerPlace(self._processes, lambda: (b"", ()))
                self._call(place, None)
                self._places.put(place)
        except BaseException:
            self.close()
            raise

    def fetch(self, key: str) -> TransferReport | None:
        """Fetches an object; ``None`` if that is better left to the engine.

        Raises:
            DataLossError: it came back with other bytes.
            WorkerCrashedError: a process died.
            CancelledError: ``abort`` was called, or the engine was aborted.
        """
        lent = self._loans.lend(key, self._size)
        if lent is None:
            return None
        place = self._places.get()
        arrival = None
        try:
            received = self._call(place, Task(lent.loan, self._objects.beginning(key), self._last))
            arrival = received.arrival
        finally:
            lent.give_back(arrival)
            self._places.put(place)
        with self._lock:
            self.processor_seconds += received.processor_seconds
        if arrival is None:
            return None
        if not received.is_right:
            raise wrong_bytes(key)
        return TransferReport(self._size, arrival.seconds, arrival.attempts, STREAM)

    def abort(self) -> None:
        """Ends everything at once."""
        self._ended = True
        self._processes.abort()

    def close(self) -> None:
        """Ends the processes."""
        self._processes.close()

    def _call(self, place: WorkerPlace, task: Task | None) -> Received:
        try:
            return self._answers.decode(place.call(msgspec.msgpack.encode(task), ()))
        except WorkerDiedError as error:
            if self._ended:
                raise CancelledError("the benchmark stops") from None
            raise WorkerCrashedError(f"a process that fetched an object of the benchmark died by {error}") from None
