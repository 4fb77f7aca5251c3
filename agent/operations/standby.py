"""Keeps a process ready for the next operation: starting one takes it, and its workers, a quarter of a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from agent.operations.process import WORKER, OperationProcess, start_process

WORKERS = 2
"""Worker processes that wait with it. The others of a larger machine start beside them when there is work."""

DELAY_SECONDS = 0.5
"""An operation that comes sooner is better served by a process that has nobody beside it which loads all the same."""

_log = logging.getLogger(__name__)


class Standby:
    """Where operations get their processes. Belongs to the event loop.

    Args:
        keep_open: a file descriptor that processes hold for as long as they live.
        workers: worker processes that wait with the one that is kept ready; ``None`` to keep none ready.
        program: the command line of a process.
        delay_seconds: how long after one was used the next is started.
    """

    def __init__(
        self,
        keep_open: int,
        workers: int | None,
        program: Sequence[str] = WORKER,
        delay_seconds: float = DELAY_SECONDS,
    ) -> None:
        self._keep_open = keep_open
        self._workers = workers
        self._program = tuple(program)
        self._delay_seconds = delay_seconds
        self._later: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[OperationProcess] | None = None
        self._closed = False

    async def take(self) -> OperationProcess:
        """Returns the process that was kept ready, or a new one.

        Raises:
            WorkerCrashedError: it cannot be started.
        """
        process = await self._kept()
        if process is not None:
            if not process.has_ended:
                return process
            await process.close()
        return await start_process(self._keep_open, self._program)

    def prepare(self) -> None:
        """Has the next process started in a moment, unless there is one already."""
        if self._workers is not None and not (self._closed or self._later or self._starting):
            self._later = asyncio.get_running_loop().call_later(self._delay_seconds, self._begin)

    async def close(self) -> None:
        """Ends the process that waits; none is kept ready any more."""
        self._closed = True
        process = await self._kept()
        if process is not None:
            await process.close()

    async def _kept(self) -> OperationProcess | None:
        """Returns the process that was kept ready, which is nobody's then."""
        if self._later is not None:
            self._later.cancel()
        starting, self._later, self._starting = self._starting, None, None
        if starting is None:
            return None
        await asyncio.wait({starting})
        return None if starting.exception() else starting.result()

    def _begin(self) -> None:
        self._later = None
        program = (*self._program, str(self._workers))
        self._starting = asyncio.ensure_future(start_process(self._keep_open, program))
        self._starting.add_done_callback(_look_at)


def _look_at(starting: asyncio.Task[OperationProcess]) -> None:
    error = None if starting.cancelled() else starting.exception()
    if error is not None:
        # The next operation starts one itself, and says what was wrong if that fails too.
        _log.warning("no process could be kept ready: %s", error)
