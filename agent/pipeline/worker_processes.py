"""All worker processes of an operation, and the place of one that is filled again when it dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from agent.errors import LocalIoError
from agent.pipeline.standby_workers import StandbyWorkers
from agent.pipeline.worker_process import SILENCE_SECONDS, WorkerDiedError, WorkerProcess


class WorkerProcesses:
    """The worker processes of one operation. For any thread.

    Args:
        module: what they run.
        count: how many are started at once, to import what they need before there is something to do.
        standby: where those come from that wait already.
        silence_seconds: how long one may give no sign of life while its answer is waited for.
    """

    def __init__(
        self, module: str, count: int, standby: StandbyWorkers | None = None, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self._module = module
        self._standby = standby or StandbyWorkers()
        self._silence_seconds = silence_seconds
        self._lock = threading.Lock()
        self._ended = False
        self._idle: list[WorkerProcess] = []
        self._all: set[WorkerProcess] = set()
        self.prepare(count)

    def prepare(self, count: int) -> None:
        """Starts more.

        Raises:
            LocalIoError: one cannot be started.
        """
        with self._lock:
            self._idle.extend(self._start() for _ in range(0 if self._ended else count))

    def take(self) -> WorkerProcess:
        """Returns a process that has not been set up yet.

        Raises:
            LocalIoError: it cannot be started.
            WorkerDiedError: ``abort`` was called.
        """
        with self._lock:
            if self._ended:
                raise WorkerDiedError
            return self._idle.pop() if self._idle else self._start()

    def give_up(self, process: WorkerProcess) -> str:
        """Reaps one that died; says how."""
        with self._lock:
            self._all.discard(process)
        return process.end()

    def dismiss(self, process: WorkerProcess) -> None:
        """Ends one that has nothing to do any more."""
        with self._lock:
            self._all.discard(process)
        process.dismiss()

    def abort(self) -> None:
        """Kills and reaps all; whoever waits for one sees that."""
        with self._lock:
            self._ended = True
            processes = list(self._all)
        for process in processes:
            process.kill()

    def close(self) -> None:
        """Ends all."""
        with self._lock:
            self._ended = True
            processes = list(self._all)
            self._all.clear()
        for process in processes:
            process.dismiss()

    def _start(self) -> WorkerProcess:
        try:
            process = self._standby.take(self._module, self._silence_seconds)
        except OSError as error:
            raise LocalIoError(f"a worker process cannot be started: {error.strerror}") from error
        self._all.add(process)
        return process


class WorkerPlace:
    """Whoever calls always finds a worker process here. For one thread.

    Args:
        setup: returns the first message to a process, with its descriptors.
    """

    def __init__(self, processes: WorkerProcesses, setup: Callable[[], tuple[bytes, Sequence[int]]]) -> None:
        self._processes = processes
        self._setup = setup
        self._process: WorkerProcess | None = None

    def call(self, message: bytes, descriptors: Sequence[int]) -> bytes:
        """Sends a message and returns the answer.

        Raises:
            WorkerDiedError: the process died, as the error says; the next call finds another one.
            LocalIoError: none can be started.
        """
        try:
            if self._process is None:
                self._process = self._processes.take()
                self._process.connection.send(*self._setup())
            self._process.connection.send(message, descriptors)
            return self._process.connection.receive()[0]
        except WorkerDiedError:
            process, self._process = self._process, None
            raise WorkerDiedError(self._processes.give_up(process) if process else "an abort") from None

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            self._processes.dismiss(process)
