"""Makes the plan of a restore while the first of its packs are written already."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

from agent.pipeline.crew import wait_for
from agent.repository.manifest_reader import Location, ManifestReader
from agent.restore.ahead import Ahead
from agent.restore.marks import Marks
from agent.restore.plan import Job, PackJob, Planner, RestorePlan
from agent.restore.selection import Selection


class Planning:
    """The plan of a restore, in the making. ``make`` is for one thread, ``jobs`` for another one.

    Args:
        ahead: what is on its way. Packs among it are handed out as soon as the plan has seen all their entries: nobody
            has to wait for room for them.
        check: called often; raises when all shall stop.
    """

    def __init__(self, manifest: ManifestReader, selection: Selection, ahead: Ahead, check: Callable[[], None]) -> None:
        self._ahead = ahead
        self._check = check
        self._early = ahead.chunk_ids
        self._handed_out: dict[bytes, Location] = {}
        self._queue: queue.SimpleQueue[PackJob | RestorePlan] = queue.SimpleQueue()
        self._planner = Planner(manifest, selection, self._see)

    @property
    def directories(self) -> Marks:
        """As in ``RestorePlan``: complete with it."""
        return self._planner.directories

    def make(self) -> RestorePlan:
        """Makes the plan; raises as ``make_plan``."""
        plan = self._planner.make()
        self._queue.put(plan)
        return plan

    def jobs(self) -> Iterator[Job]:
        """Yields all jobs, the first of them before the plan is made. Raises what ``check`` raises."""
        while isinstance(found := wait_for(self._queue, self._check), PackJob):
            yield found
        done = set(self._handed_out.values())
        yield from (job for job in in_order(found, self._ahead) if not (isinstance(job, PackJob) and job.first in done))

    def _see(self, job: PackJob) -> None:
        if job.chunk.id in self._early and job.chunk.id not in self._handed_out:
            self._handed_out[job.chunk.id] = job.first
            self._queue.put(job)


def in_order(plan: RestorePlan, ahead: Ahead) -> list[Job]:
    """Returns all jobs, those that are on their way first: nobody may wait for room while they take it."""
    begun = ahead.chunk_ids
    jobs = sorted(plan.jobs(), key=lambda job: job.chunk.id not in begun)
    ahead.keep(job.chunk.id for job in jobs)
    return jobs
