"""The snapshot's end of a worker process."""

from __future__ import annotations

import msgspec

from agent.errors import rebuild
from agent.pipeline.worker_processes import WorkerPlace, WorkerProcesses
from agent.repository.model import Entry
from agent.snapshot.plan import PackPlan
from agent.snapshot.task import (
    Answer,
    BuildPack,
    BuildSegment,
    BuiltPack,
    BuiltSegment,
    Compress,
    Compressed,
    Failed,
    Refused,
    Store,
    Stored,
    Task,
)
from agent.storage.engine import Outgoing

MODULE = "agent.snapshot.worker"


class RemoteBuilder:
    """Builds the chunks of one thread in a worker process.

    Args:
        root_fd: the workspace.
    """

    def __init__(self, processes: WorkerProcesses, root_fd: int) -> None:
        self._worker = WorkerPlace(processes, lambda: (b"", [root_fd]))
        self._size = 0
        self._answers = msgspec.msgpack.Decoder[Answer](Answer)

    def pack(self, plan: PackPlan) -> BuiltPack:
        """Has a pack built."""
        answer = self._call(BuildPack(plan))
        assert isinstance(answer, BuiltPack)
        return answer

    def segment(self, fd: int, entry: Entry, start: int, size: int) -> BuiltSegment:
        """Has a segment built."""
        answer = self._call(BuildSegment(entry, start, size), fd)
        if isinstance(answer, Failed):
            raise OSError(answer.errno, answer.message)
        assert isinstance(answer, BuiltSegment)
        return answer

    def compress(self) -> Compressed:
        """Has what was built last compressed."""
        answer = self._call(Compress())
        assert isinstance(answer, Compressed)
        self._size = answer.size
        return answer

    def store(self, outgoing: Outgoing) -> Stored:
        """Has what was compressed written into its room."""
        answer = self._call(Store(outgoing.place.offset), outgoing.place.fd)
        if isinstance(answer, Failed):
            raise outgoing.failure(OSError(answer.errno, answer.message))
        assert isinstance(answer, Stored)
        outgoing.written_elsewhere(self._size)
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._worker.close()

    def _call(self, task: Task, *descriptors: int) -> Answer:
        answer: Answer = self._answers.decode(self._worker.call(msgspec.msgpack.encode(task), descriptors))
        if isinstance(answer, Refused):
            raise rebuild(answer.error)
        return answer
