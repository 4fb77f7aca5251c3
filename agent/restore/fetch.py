"""Fetches chunks in the planned order, ahead of the threads that write them, and again when one arrives damaged."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from concurrent.futures import Future

import msgspec

from agent.pipeline.crew import Crew, wait_for
from agent.repository import keys
from agent.restore.ahead import Ahead
from agent.restore.plan import Job
from agent.storage.engine import Incoming, TransferEngine

FETCH_ATTEMPTS = 3
"""A chunk that arrives damaged is fetched so often before it counts as lost: the damage may be on the way."""


class Fetched(msgspec.Struct, frozen=True):
    """A job whose chunk has arrived, or failed to; ``attempt`` counts from 1."""

    job: Job
    attempt: int
    future: Future[Incoming]


class Fetcher:
    """Runs downloads. ``run`` is for one thread, ``take`` and what follows it for the others.

    Args:
        begun: chunks that are on their way already.
        jobs: what is fetched, in this order.
        most: jobs between the beginning of their download and the end of their writing at most.
        takers: threads that call ``take``.
    """

    def __init__(
        self, engine: TransferEngine, begun: Ahead, jobs: Iterable[Job], most: int, takers: int, crew: Crew
    ) -> None:
        self._engine = engine
        self._begun = begun
        self._jobs = jobs
        self._takers = takers
        self._crew = crew
        self._most = most
        self._ready: queue.SimpleQueue[Fetched | None] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[tuple[Job, int] | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Starts every download and ends when every job is done."""
        under_way = 0
        for job in self._jobs:
            while under_way >= self._most:
                under_way -= self._next_message()
            self._start(job, 1)
            under_way += 1
        while under_way > 0:
            under_way -= self._next_message()
        for _ in range(self._takers):
            self._ready.put(None)

    def take(self) -> Fetched | None:
        """Waits for the next chunk to arrive; None when there is none left. Raises CancelledError when all stops."""
        return wait_for(self._ready, self._crew.check)

    def done(self) -> None:
        """Says that a job is done, well or not."""
        self._messages.put(None)

    def again(self, fetched: Fetched) -> bool:
        """Asks for a job's chunk once more; says no when that was done often enough."""
        if fetched.attempt >= FETCH_ATTEMPTS:
            return False
        self._messages.put((fetched.job, fetched.attempt + 1))
        return True

    def _next_message(self) -> int:
        """Handles one message of the writing threads; returns how many jobs it ends."""
        message = wait_for(self._messages, self._crew.check)
        if message is None:
            return 1
        self._start(*message)
        return 0

    def _start(self, job: Job, attempt: int) -> None:
        future = self._begun.take(job.chunk.id)
        if future is None:
            future = self._engine.download(keys.chunk(job.chunk.id), job.chunk.stored_size)
        future.add_done_callback(lambda done: self._ready.put(Fetched(job, attempt, done)))
