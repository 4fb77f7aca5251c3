"""The threads of the stream engine: each has one connection and works on one job at a time."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from typing import Protocol

from agent.errors import GpusnapError, in_hierarchy
from agent.storage.failure import Failure, FailureKind, broken
from agent.storage.http_head import BrokenAnswerError
from agent.storage.retry import Endurance
from agent.storage.staging import cancelled
from agent.storage.stream_connection import Connection, StaleConnectionError
from agent.storage.stream_requests import RefusedError, Requests

ABORT_SECONDS = 5.0
"""How long an abort waits for its threads: all that may block longer is the system's name resolution."""


class Job(Protocol):
    """Something that one connection does, and that is tried again when it fails."""

    @property
    def key(self) -> str:
        """The object it is about."""
        ...

    @property
    def endurance(self) -> Endurance:
        """How long it is tried."""
        ...

    @property
    def moved(self) -> int:
        """Bytes that need not be moved again."""
        ...

    def attempt(self, connection: Connection) -> None:
        """Does it, or the rest of it. May raise anything that ``Connection`` or ``Requests`` raise."""
        ...

    def finish(self, error: GpusnapError | None) -> None:
        """Called exactly once, at its end."""
        ...


class Pool:
    """Runs jobs in the order of asking; those that failed come first again when their time has come.

    Args:
        requests: makes connections.
        connections: threads, and so connections, at most.
    """

    def __init__(self, requests: Requests, connections: int) -> None:
        self._requests = requests
        self._most = connections
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._freed = threading.Condition(lock)
        self._ready: deque[Job] = deque()
        self._delayed: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._unfinished = 0
        self._busy = 0
        self._lent = 0
        self._threads: list[threading.Thread] = []
        self._connections: list[Connection] = []
        self._last_success = 0.0
        self._ended = False

    @property
    def bytes_moved(self) -> int:
        """Bytes that all connections have moved."""
        with self._changed:
            return sum(connection.bytes_moved for connection in self._connections)

    @property
    def processor_seconds(self) -> float:
        """How long all threads were on a processor."""
        with self._changed:
            return sum(connection.processor_seconds for connection in self._connections)

    @property
    def occupancy(self) -> tuple[int, int]:
        """How many jobs are not finished, and how many connections have none."""
        with self._changed:
            return self._unfinished, max(self._most - self._lent - self._unfinished, 0)

    def submit(self, jobs: list[Job]) -> None:
        """Queues jobs; each is finished later, from another thread (or at once if the pool was ended)."""
        with self._changed:
            if not self._ended:
                self._unfinished += len(jobs)
                self._ready.extend(jobs)
                self._start_threads()
                self._changed.notify(len(jobs))
                return
        for job in jobs:
            job.finish(cancelled())

    def widen(self, connections: int) -> None:
        """Allows more connections at once from now on."""
        with self._changed:
            self._most = max(self._most, connections)
            if not self._ended:
                self._start_threads()
            self._changed.notify_all()
            self._freed.notify_all()

    def lend(self) -> bool:
        """Leaves one connection without work, so that another can be used elsewhere; blocks until one is free.

        Says no if half of them are lent.

        Raises:
            CancelledError: the pool was ended.
        """
        with self._changed:
            if self._lent >= self._most // 2:
                return False
            self._lent += 1
            self._freed.wait_for(lambda: self._ended or self._busy + self._lent <= self._most)
            if self._ended:
                raise cancelled()
            return True

    def take_back(self) -> None:
        """Takes back what was lent."""
        with self._changed:
            self._lent -= 1
            self._changed.notify_all()
            self._freed.notify_all()

    def close(self) -> None:
        """Waits until everything queued is finished, and ends the threads."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._unfinished == 0)
        self.abort()

    def abort(self) -> None:
        """Cuts every connection and fails what is not finished with CancelledError."""
        with self._changed:
            self._ended = True
            left = [*self._ready, *(job for _, _, job in self._delayed)]
            self._ready.clear()
            self._delayed.clear()
            threads, connections = list(self._threads), list(self._connections)
            self._changed.notify_all()
            self._freed.notify_all()
        for connection in connections:
            connection.cut()
        for job in left:
            self._finish(job, cancelled())
        deadline = time.monotonic() + ABORT_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(deadline - time.monotonic(), 0.0))

    def _start_threads(self) -> None:
        while len(self._threads) < min(self._most, self._unfinished):
            self._start_thread()

    def _start_thread(self) -> None:
        connection = self._requests.connection()
        number = len(self._threads)
        thread = threading.Thread(target=self._work, args=(connection,), name=f"stream-{number}", daemon=True)
        thread.start()
        self._connections.append(connection)
        self._threads.append(thread)

    def _work(self, connection: Connection) -> None:
        try:
            while (job := self._next()) is not None:
                self._attempt(job, connection)
                self._free()
        finally:
            connection.close()

    def _next(self) -> Job | None:
        with self._changed:
            while not self._ended:
                now = time.monotonic()
                while self._delayed and self._delayed[0][0] <= now:
                    self._ready.appendleft(heapq.heappop(self._delayed)[2])
                if self._ready and self._busy + self._lent < self._most:
                    self._busy += 1
                    return self._ready.popleft()
                self._changed.wait(self._delayed[0][0] - now if self._delayed else None)
            return None

    def _free(self) -> None:
        with self._changed:
            self._busy -= 1
            self._freed.notify_all()

    def _attempt(self, job: Job, connection: Connection) -> None:
        connection.begin(*job.endurance.begin(time.monotonic()))
        try:
            try:
                job.attempt(connection)
            except StaleConnectionError:
                job.attempt(connection)  # over a new connection, which cannot be stale
        except RefusedError as error:
            self._failed(job, connection, error.failure, error.wish)
        except (OSError, BrokenAnswerError) as error:
            self._failed(job, connection, broken(error))
        except GpusnapError as error:
            self._finish(job, error)
        except Exception as error:  # a defect: without this, whoever waits for the job would wait for ever
            connection.close()
            self._finish(job, in_hierarchy(error))
        else:
            self._last_success = time.monotonic()
            self._finish(job, None)

    def _failed(self, job: Job, connection: Connection, failure: Failure, wish: float = 0.0) -> None:
        """Queues another try, or gives up."""
        error = self._requests.error(failure, job.key)
        if failure.kind is FailureKind.UNAVAILABLE:
            now = time.monotonic()
            delay = job.endurance.failed(now, job.moved, connection.last_moved, self._last_success, wish)
            if delay is not None:
                with self._changed:
                    if not self._ended:
                        heapq.heappush(self._delayed, (now + delay, next(self._order), job))
                        self._changed.notify()
                        return
                error = cancelled()
        self._finish(job, error)

    def _finish(self, job: Job, error: GpusnapError | None) -> None:
        try:
            job.finish(error)
        finally:
            with self._changed:
                self._unfinished -= 1
                if self._unfinished == 0:
                    self._changed.notify_all()
