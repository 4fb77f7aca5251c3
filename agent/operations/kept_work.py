"""What failed restores have begun stays in their targets for a while, for restores that go on with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agent.errors import GpusnapError
from agent.events import OperationKind
from agent.operations import leftovers
from agent.operations.held import overlap
from agent.operations.journal import Journal
from agent.operations.record import OperationRecord

KEPT_SECONDS = 12 * 3600
"""Who wants to go on does so soon, or never: what has been kept for longer is removed."""

LOOK_SECONDS = 600.0
"""Time between two looks for what is older."""

_log = logging.getLogger(__name__)


class KeptWork:
    """The work of operations that have ended and may be gone on with. Belongs to the event loop.

    Args:
        journal: knows whose work is kept.
        admission: held while it is decided who may use a path.
        running: returns the operations that have not ended.
    """

    def __init__(self, journal: Journal, admission: asyncio.Lock, running: Callable[[], list[OperationRecord]]) -> None:
        self._journal = journal
        self._admission = admission
        self._running = running
        self.holders: list[OperationRecord] = []
        """The operations whose work is being removed now: until then nobody else may use their paths."""

    async def tidy(self) -> None:
        """Removes what has been kept for long enough, now and from time to time, until it is cancelled."""
        while True:
            try:
                await self.remove_old()
            except GpusnapError as error:
                _log.error("what failed restores have left could not be looked for: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def remove_old(self) -> None:
        """Removes what has been kept for long enough.

        Raises:
            GpusnapError: the journal cannot be used.
        """
        since = time.time_ns() - KEPT_SECONDS * 10**9
        for record in await self._journal.keeping_work():
            if record.end_time_ns < since:
                await self._remove(record)

    async def is_own(self, record: OperationRecord, path: bytes) -> bool:
        """Returns whether what an operation has begun is still its own to go on with.

        Args:
            path: where its workspace or target is now.
        """
        if record.kind is not OperationKind.RESTORE:
            return True
        if not record.keeps_work or record.path != path:
            return False
        # What they have written there is not to be overwritten by one that was to find its target empty.
        later = await self._journal.restores_since(record.number)
        return not any(overlap(path, other.path) for other in later)

    async def _remove(self, record: OperationRecord) -> None:
        async with self._admission:
            now = await self._journal.get(record.name)
            in_use = any(overlap(record.path, other.path) for other in self._running())
            if now is None or not now.keeps_work or in_use:
                return
            self.holders.append(record)
        try:
            await asyncio.to_thread(leftovers.remove_restore_work, record.path, record.name)
            await self._journal.forget_work(record.name)
        finally:
            self.holders.remove(record)
        _log.info("%s: nobody went on with it, so what it had begun is removed", record.name)
