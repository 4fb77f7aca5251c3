"""One operation from its acceptance to its end: its state, its events and its process."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable

import msgspec

from agent.errors import GpusnapError, describe, is_defect
from agent.events import (
    Begun,
    Completed,
    Failed,
    OperationEvent,
    OperationKind,
    OperationState,
    PipelineEvent,
    StateChanged,
    Succeeded,
)
from agent.operations import leftovers
from agent.operations.bounds import bounded_error
from agent.operations.hub import EventLog
from agent.operations.journal import Journal
from agent.operations.process import SILENCE_SECONDS, WorkerEnd
from agent.operations.record import LoggedEvent, OperationRecord
from agent.operations.recovery import (
    ATTEMPTS,
    continuation_notice,
    death,
    keeps_work,
    last_death,
    retry_notice,
    taking_up,
)
from agent.operations.request import Request
from agent.operations.standby import Standby
from agent.operations.states import follow

_log = logging.getLogger(__name__)

Observer = Callable[[str, OperationKind, LoggedEvent], None]
"""Told of each event of each operation, with the operation's name and kind; must not block."""


class LiveOperation:
    """An operation that has not ended. Belongs to the event loop.

    Args:
        record: as it was written to the journal; its last event, which tells its state, is still to be made.
        request: what its process is to do.
        journal: where its end is written.
        observer: told of each event.
        processes: where it gets its process.
        silence_seconds: how long the process may give no sign of life.
    """

    def __init__(
        self,
        record: OperationRecord,
        request: Request,
        journal: Journal,
        observer: Observer,
        processes: Standby,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._record = record
        self._request = request
        self._journal = journal
        self._observer = observer
        self._processes = processes
        self._silence_seconds = silence_seconds
        self._cancel = asyncio.Event()
        self._interrupt = asyncio.Event()
        self._ending = False
        # Whether a process may have left files of a restore that are not complete.
        self._left_work = record.continuations > 0
        self._writes: set[asyncio.Task[None]] = set()
        self.log = EventLog(record.last_sequence)
        self._emit(StateChanged(record.state))
        if record.continuations:
            self._emit(continuation_notice(record))

    @property
    def record(self) -> OperationRecord:
        """What is known about it now."""
        if self._record.completed is not None:
            return self._record
        return msgspec.structs.replace(self._record, last_sequence=self.log.last_sequence, progress=self.log.progress)

    @property
    def can_be_left(self) -> bool:
        """Whether the next agent can continue it, or whoever repeats its request with credentials."""
        return not self._cancel.is_set()

    async def cancel(self) -> None:
        """Asks it to stop; does nothing if it was asked before or is at its end.

        Returns when the journal knows, so that another agent would not continue it.
        """
        if self._ending or self._cancel.is_set():
            return
        self._cancel.set()
        self._move(OperationState.CANCELLING)
        await self._write()

    def interrupt(self) -> None:
        """Kills its process and leaves it to the next agent."""
        self._interrupt.set()

    async def run(self) -> None:
        """Does the work to its end, or until it is interrupted; never raises an error of the operation."""
        try:
            completed = await self._work()
        except Exception as error:
            if is_defect(error):
                _log.exception("%s: a defect of the agent", self._record.name)
            completed = Completed(OperationState.FAILED, describe(error))
        if self._writes:
            await asyncio.wait(self._writes)
        await (self._end(completed) if completed is not None else self._leave())

    async def _work(self) -> Completed | None:
        """Returns how it ended; ``None`` if it is left to the next agent."""
        for attempt in itertools.count(1):
            end = await self._run_process()
            if end is None:
                break
            self._left_work = not end.cleaned_up
            error = None if self._cancel.is_set() else death(end)
            if error is None:
                return conclude(end, self._cancel.is_set())
            if self._interrupt.is_set():
                break
            if attempt == ATTEMPTS:
                return Completed(OperationState.FAILED, describe(last_death(error)))
            self._emit(retry_notice(error, attempt))
            _log.warning("%s: %s", self._record.name, error)
        return Completed(OperationState.CANCELLED) if self._cancel.is_set() else None

    async def _run_process(self) -> WorkerEnd | None:
        """Runs a process to its end; ``None`` if the operation was cancelled or interrupted before."""
        staging = self._request.staging_dir
        await asyncio.to_thread(leftovers.make_staging, staging)
        try:
            if self._cancel.is_set() or self._interrupt.is_set():
                return None
            if self._record.state is OperationState.PENDING:
                self._move(OperationState.RUNNING)
                await self._write()
            request = taking_up(self._request, self._record)
            process = await self._processes.take()
            return await process.perform(
                self._record.name, request, self._take, self._cancel, self._interrupt, self._silence_seconds
            )
        finally:
            await asyncio.to_thread(leftovers.remove_staging, staging)

    def _move(self, state: OperationState) -> None:
        self._record = msgspec.structs.replace(self._record, state=follow(self._record.state, state))
        self._emit(StateChanged(state))
        _log.info("%s: %s", self._record.name, state.value)

    def _take(self, event: PipelineEvent) -> asyncio.Future[None] | None:
        """Takes in what the process reports; it goes on with what it begins once the journal has it."""
        if not isinstance(event, Begun):
            self._emit(event)
            return None
        self._record = msgspec.structs.replace(self._record, begun=event.snapshot_id)
        write = asyncio.ensure_future(self._write())
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        return write

    def _emit(self, event: OperationEvent) -> None:
        logged = self.log.append(event)
        self._observer(self._record.name, self._record.kind, logged or self.log.draft(event))

    async def _write(self) -> None:
        try:
            await self._journal.update(self.record)
        except GpusnapError as error:
            _log.error("%s: its state could not be written: %s", self._record.name, error)

    async def _leave(self) -> None:
        """Leaves it to the next agent: this one ends as it should, which is none of the deaths that are counted."""
        self._record = msgspec.structs.replace(self._record, continuations=0)
        await self._write()
        self.log.interrupt()
        _log.info("%s: left to be continued", self._record.name)

    async def _end(self, completed: Completed) -> None:
        """Writes the end to the journal and then shows it: nobody sees an end that a restart would not remember."""
        self._ending = True
        is_kept = await self._clean_target(completed)
        self.log.unfold_warnings()
        last = self.log.draft(completed)
        result = completed.result
        is_snapshot = self._record.kind is OperationKind.SNAPSHOT
        record = msgspec.structs.replace(
            self.record,
            state=follow(self._record.state, completed.state),
            snapshot=result.snapshot_id if is_snapshot and result is not None else self._record.snapshot,
            end_time_ns=time.time_ns(),
            last_sequence=last.sequence,
            completed=completed,
            keeps_work=is_kept,
        )
        try:
            await self._journal.finish(record, [*self.log.history(), last])
        except GpusnapError as error:
            _log.error("%s: its end could not be written: %s", record.name, error)
        self._record = record
        self.log.add(last)
        self._observer(record.name, record.kind, last)
        if completed.error is None:
            _log.info("%s: %s", record.name, completed.state.value)
        else:
            _log.warning("%s: failed: %s: %s", record.name, completed.error.reason, completed.error.message)

    async def _clean_target(self, completed: Completed) -> bool:
        """Removes what a restore has left unfinished; says whether something stays for another one to go on with."""
        target, name = self._record.path, self._record.name
        if keeps_work(self._record, completed):
            return await asyncio.to_thread(leftovers.keep_restore_work, target, name)
        if self._record.kind is OperationKind.RESTORE and (
            self._left_work or completed.state is not OperationState.SUCCEEDED
        ):
            await asyncio.to_thread(leftovers.remove_restore_work, target, name)
        return False


def conclude(end: WorkerEnd, cancelled: bool) -> Completed:
    """Returns how an operation ended whose process ended so; ``cancelled`` says whether it was asked to stop."""
    if isinstance(end.message, Succeeded):
        return Completed(OperationState.SUCCEEDED, None, end.message.result)
    result = end.message.result if isinstance(end.message, Failed) else None
    if cancelled:
        return Completed(OperationState.CANCELLED, None, result)
    died = death(end)
    if died is None and isinstance(end.message, Failed):
        return Completed(OperationState.FAILED, bounded_error(end.message.error), result)
    return Completed(OperationState.FAILED, describe(died or end.crash()), result)
