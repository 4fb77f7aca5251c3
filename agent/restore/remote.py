"""The restore's end of a worker process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec

from agent.errors import WorkerCrashedError, rebuild
from agent.pipeline.crew import Crew
from agent.pipeline.worker_process import WorkerDiedError
from agent.pipeline.worker_processes import WorkerPlace, WorkerProcesses
from agent.restore.target import Folders
from agent.restore.task import Answer, PlacedTask, Setup, Task, Written
from agent.storage.engine import Incoming

MODULE = "agent.restore.worker"

ATTEMPTS = 3
"""Worker processes that may die over one chunk before the restore fails."""


class RemoteWriter:
    """Does the tasks of one thread in a worker process, and in another one if that dies.

    Args:
        setups: the first message to each process; they differ in their numbers.
    """

    def __init__(self, processes: WorkerProcesses, setups: Iterator[Setup], folders: Folders, crew: Crew) -> None:
        descriptors = (folders.root_fd, folders.work_fd)
        self._worker = WorkerPlace(processes, lambda: (msgspec.msgpack.encode(next(setups)), descriptors))
        self._crew = crew
        self._answers = msgspec.msgpack.Decoder[Answer](Answer)

    def do(self, task: Task, incoming: Incoming | None = None) -> Written:
        """Does a task; what a process that died wrote of it is written again."""
        placed, descriptors = PlacedTask(task), []
        if incoming is not None:
            place = incoming.place
            placed, descriptors = PlacedTask(task, place.offset, place.size), [place.fd]
        message = msgspec.msgpack.encode(placed)
        for attempt in itertools.count(1):
            try:
                answer = self._answers.decode(self._worker.call(message, descriptors))
                break
            except WorkerDiedError as error:
                self._crew.check()
                if attempt == ATTEMPTS:
                    raise WorkerCrashedError(
                        f"{ATTEMPTS} worker processes died over chunk {task.chunk.id.hex()}, the last one by {error}"
                    ) from None
        if isinstance(answer, Written):
            return answer
        raise rebuild(answer.error)

    def close(self) -> None:
        """Ends the process."""
        self._worker.close()
