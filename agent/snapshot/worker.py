"""A worker process of a snapshot: ``python -m agent.snapshot.worker``. It builds chunks until its connection ends."""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import msgspec

from agent.errors import describe, is_defect
from agent.pipeline.process_name import ProcessName, name_process
from agent.pipeline.worker_process import WorkerDiedError, beating, own_connection, received
from agent.snapshot.builder import ChunkBuilder
from agent.snapshot.task import Answer, BuildPack, BuildSegment, Compress, Failed, Refused, Stored, Task


def main() -> int:
    """Does the tasks of one operation."""
    name_process(ProcessName.PACK)
    connection = beating(own_connection())
    tasks = msgspec.msgpack.Decoder[Task](Task)
    try:
        _, (root_fd,) = connection.receive()
        # Nothing to check: whoever wants it to stop kills it. Made for the first task, which then says what was wrong.
        builder = functools.cache(lambda: ChunkBuilder(root_fd, lambda: None))
        while True:
            message, descriptors = connection.receive()
            with received(descriptors):
                answer = _answer(builder, tasks.decode(message), descriptors)
            connection.send(msgspec.msgpack.encode(answer))
    except WorkerDiedError:
        return 0


def _answer(builder: Callable[[], ChunkBuilder], task: Task, descriptors: Sequence[int]) -> Answer:
    try:
        if isinstance(task, BuildPack):
            return builder().pack(task.plan)
        if isinstance(task, BuildSegment):
            return builder().segment(descriptors[0], task.entry, task.start, task.size)
        if isinstance(task, Compress):
            return builder().compress()
        return _store(builder(), descriptors[0], task.offset)
    except Exception as error:
        # Without memory no file is at fault.
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            return Failed(error.errno or 0, error.strerror or str(error))
        if is_defect(error):
            traceback.print_exc()
        return Refused(describe(error))


def _store(builder: ChunkBuilder, fd: int, offset: int) -> Stored:
    position = offset

    def write(piece: bytes | memoryview) -> None:
        nonlocal position
        left = memoryview(piece)
        while left:
            count = os.pwrite(fd, left, position)
            left = left[count:]
            position += count

    return builder.write(write)


if __name__ == "__main__":
    sys.exit(main())
