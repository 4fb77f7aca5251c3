"""The restore's end of its worker processes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import msgspec

from agent.errors import LocalIoError, WorkerCrashedError, rebuild
from agent.pipeline.crew import Crew
from agent.pipeline.worker_process import WorkerDiedError, WorkerProcess
from agent.restore.target import Folders
from agent.restore.task import Answer, PlacedTask, Setup, Task, Written
from agent.storage.engine import Incoming

MODULE = "agent.restore.worker"

ATTEMPTS = 3
"""Worker processes that may die over one chunk before the restore fails."""


class WorkerProcesses:
    """The worker processes of one restore.

    Args:
        count: how many are started at once; they import what they need while the restore is planned.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._idle: list[WorkerProcess] = []
        self._all: set[WorkerProcess] = set()
        for _ in range(count):
            self._idle.append(self._start())

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

    def end(self, process: WorkerProcess) -> str:
        """Ends one; says how it ended."""
        with self._lock:
            self._all.discard(process)
        return process.end()

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
            process.end()

    def _start(self) -> WorkerProcess:
        try:
            process = WorkerProcess(MODULE)
        except OSError as error:
            raise LocalIoError(f"a worker process cannot be started: {error.strerror}") from error
        self._all.add(process)
        return process


class RemoteWriter:
    """Does the tasks of one thread in a worker process, and in another one if that dies.

    Args:
        setups: the first message to each process; they differ in their numbers.
    """

    def __init__(self, processes: WorkerProcesses, setups: Iterator[Setup], folders: Folders, crew: Crew) -> None:
        self._processes = processes
        self._setups = setups
        self._folders = folders
        self._crew = crew
        self._process: WorkerProcess | None = None
        self._answers = msgspec.msgpack.Decoder[Answer](Answer)

    def do(self, task: Task, incoming: Incoming) -> Written:
        """Writes a chunk; what a process that died wrote of it is written again."""
        place = incoming.place
        message = msgspec.msgpack.encode(PlacedTask(task, place.offset, place.size))
        for attempt in itertools.count(1):
            try:
                process = self._started()
                process.connection.send(message, [place.fd])
                answer = self._answers.decode(process.connection.receive()[0])
                break
            except WorkerDiedError:
                self._crew.check()
                how = self._discard()
                if attempt == ATTEMPTS:
                    raise WorkerCrashedError(
                        f"{ATTEMPTS} worker processes died over chunk {task.chunk.id.hex()}, the last one by {how}"
                    ) from None
        if isinstance(answer, Written):
            return answer
        raise rebuild(answer.error)

    def close(self) -> None:
        """Ends the process."""
        self._discard()

    def _started(self) -> WorkerProcess:
        if self._process is None:
            self._process = self._processes.take()
            setup = msgspec.msgpack.encode(next(self._setups))
            self._process.connection.send(setup, [self._folders.root_fd, self._folders.work_fd])
        return self._process

    def _discard(self) -> str:
        process, self._process = self._process, None
        return self._processes.end(process) if process else "an abort"
