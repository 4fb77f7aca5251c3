"""A worker process of a benchmark: ``python -m agent.maintenance.benchmark_receiver``. It fetches and keeps nothing."""

from __future__ import annotations

import sys
import time

import msgspec
from blake3 import blake3

from agent.maintenance.benchmark_objects import PIECE_BYTES
from agent.pipeline.memory import anonymous
from agent.pipeline.process_name import ProcessName, name_process
from agent.pipeline.worker_process import WorkerDiedError, beating, own_connection
from agent.storage.borrower import Borrower, NotFetchedError
from agent.storage.loan import Arrival, Loan


class Task(msgspec.Struct, frozen=True):
    """Fetch an object and look at its first bytes and at its last ones.

    Attributes:
        first: what it begins with.
        last: the BLAKE3 of its last ``PIECE_BYTES``, or of all that follows on ``first`` if that is less.
    """

    loan: Loan
    first: bytes
    last: bytes


class Received(msgspec.Struct, frozen=True):
    """What came of a task.

    Attributes:
        arrival: how the object came, if it did.
        is_right: whether it was the right one.
        processor_seconds: how long the task was on a processor.
    """

    arrival: Arrival | None = None
    is_right: bool = False
    processor_seconds: float = 0.0


def main() -> int:
    """Does the tasks of one measurement. ``None`` instead of one only asks for an answer."""
    name_process(ProcessName.WRITE)
    connection = beating(own_connection())
    tasks = msgspec.msgpack.Decoder[Task | None](Task | None)
    borrower, block = Borrower(), anonymous(PIECE_BYTES)
    try:
        connection.receive()  # there is nothing to set up
        while True:
            task = tasks.decode(connection.receive()[0])
            answer = Received() if task is None else _receive(task, borrower, block)
            connection.send(msgspec.msgpack.encode(answer))
    except WorkerDiedError:
        return 0


def _receive(task: Task, borrower: Borrower, block: memoryview) -> Received:
    begun = time.thread_time()
    arriving = borrower.fetch(task.loan)
    first, room = block[: len(task.first)], block[:0]
    left = task.loan.size - len(first)
    try:
        arriving.fill(first)
        is_right = first == task.first
        while left:
            # The last one is as large as can be, so that it is what is looked at.
            room = block[: left % PIECE_BYTES or PIECE_BYTES]
            arriving.fill(room)
            left -= len(room)
    except NotFetchedError:
        return Received(processor_seconds=time.thread_time() - begun)
    is_right &= blake3(room).digest() == task.last
    return Received(arriving.arrival, is_right, time.thread_time() - begun)


if __name__ == "__main__":
    sys.exit(main())
