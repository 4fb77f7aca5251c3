"""Fetches chunks in the planned order, ahead of the threads that write them, and again when one arrives damaged.

Segments are left to the worker processes where the engine lends connections for that: they then go from the network to
the disk through the memory of one process.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable

from agent.pipeline.crew import Crew, wait_for
from agent.repository import keys
from agent.restore.ahead import Ahead
from agent.restore.plan import Job, SegmentJob
from agent.restore.ready import Fetched, Ready, Unfetched
from agent.storage.engine import Loans, TransferEngine
from agent.storage.loan import Lent

FETCH_ATTEMPTS = 3
"""A chunk that arrives damaged is fetched so often before it counts as lost: the damage may be on the way."""


class Fetcher:
    """Runs downloads. ``run`` is for one thread, ``take`` and what follows it for the others.

    Args:
        begun: chunks that are on their way already.
        jobs: what is fetched, in this order.
        most: jobs between the beginning of their download and the end of their writing at most.
        loans: connections for those who write segments, if they can fetch them.
    """

    def __init__(
        self, engine: TransferEngine, begun: Ahead, jobs: Iterable[Job], most: int, loans: Loans | None, crew: Crew
    ) -> None:
        self._engine = engine
        self._begun = begun
        self._jobs = jobs
        self._loans = loans
        self._crew = crew
        self._most = most
        self._ready = Ready()
        self._messages: queue.SimpleQueue[tuple[Job, int] | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Starts every download and ends when every job is done."""
        under_way = 0
        for job in self._jobs:
            while under_way >= self._most:
                under_way -= self._next_message()
            self._begin(job)
            under_way += 1
        while under_way > 0:
            under_way -= self._next_message()
        self._ready.end()

    def take(self, prefers_unfetched: bool) -> Fetched | Unfetched | None:
        """Waits for the next chunk; ``None`` when there is none left. Raises CancelledError when all stops.

        Args:
            prefers_unfetched: whether a segment that is still to be fetched comes before a chunk that has arrived.
        """
        return self._ready.take(self._crew.check, prefers_unfetched)

    def lend(self, unfetched: Unfetched) -> Lent | None:
        """Lends a connection for a segment; ``None`` if none is lent: it then is among those that arrive."""
        chunk = unfetched.job.chunk
        lent = self._loans.lend(keys.chunk(chunk.id), chunk.stored_size) if self._loans is not None else None
        if lent is None:
            self.instead(unfetched)
        return lent

    def instead(self, unfetched: Unfetched) -> None:
        """Fetches a segment that could not be fetched by who would have written it."""
        self._messages.put((unfetched.job, unfetched.attempt))

    def done(self) -> None:
        """Says that a job is done, well or not."""
        self._messages.put(None)

    def again(self, fetched: Fetched | Unfetched) -> bool:
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

    def _begin(self, job: Job) -> None:
        lends = self._loans is not None and self._loans.are_given
        if lends and isinstance(job, SegmentJob) and job.chunk.id not in self._begun:
            self._ready.put(Unfetched(job))
        else:
            self._start(job, 1)

    def _start(self, job: Job, attempt: int) -> None:
        future = self._begun.take(job.chunk.id)
        if future is None:
            future = self._engine.download(keys.chunk(job.chunk.id), job.chunk.stored_size)
        future.add_done_callback(lambda done: self._ready.put(Fetched(job, attempt, done)))


def loans_for(workers: int, engine: TransferEngine) -> Loans | None:
    """Returns connections for so many workers: only those in processes of their own gain from fetching themselves."""
    return engine.loans if workers > 1 and engine.loans is not None and engine.loans.are_given else None
