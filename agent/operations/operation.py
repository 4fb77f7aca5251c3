"""One operation from its acceptance to its end: its state, its events and its process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from agent.errors import CancelledError, GpusnapError, WorkerCrashedError, describe
from agent.events import Completed, Failed, OperationEvent, OperationKind, OperationState, StateChanged, Succeeded
from agent.operations import leftovers
from agent.operations.bounds import bounded_error
from agent.operations.hub import EventLog
from agent.operations.journal import Journal
from agent.operations.process import WorkerEnd, run_worker
from agent.operations.record import LoggedEvent, OperationRecord
from agent.operations.request import Request
from agent.operations.states import follow

_log = logging.getLogger(__name__)

Observer = Callable[[str, OperationKind, LoggedEvent], None]
"""Told of each event of each operation, with the operation's name and kind; must not block."""


class LiveOperation:
    """An operation that has not ended. Belongs to the event loop.

    Args:
        record: as it was written to the journal.
        request: what its process is to do; its staging folder does not exist yet.
        journal: where its end is written.
        observer: told of each event.
        workers_lock: a file descriptor that the process holds for as long as it lives.
    """

    def __init__(
        self, record: OperationRecord, request: Request, journal: Journal, observer: Observer, workers_lock: int
    ) -> None:
        self._record = record
        self._request = request
        self._journal = journal
        self._observer = observer
        self._workers_lock = workers_lock
        self._cancel = asyncio.Event()
        self._ending = False
        self.log = EventLog()
        self._emit(StateChanged(record.state))

    @property
    def record(self) -> OperationRecord:
        """What is known about it now."""
        if self._record.completed is not None:
            return self._record
        return msgspec.structs.replace(self._record, last_sequence=self.log.last_sequence, progress=self.log.progress)

    def cancel(self) -> None:
        """Asks it to stop; does nothing if it was asked before or is at its end."""
        if self._ending or self._cancel.is_set():
            return
        self._cancel.set()
        self._move(OperationState.CANCELLING)

    async def run(self) -> OperationRecord:
        """Does the work and returns how it ended; never raises an error of the operation."""
        try:
            completed = await self._work()
        except GpusnapError as error:
            completed = Completed(OperationState.FAILED, describe(error))
        except Exception as error:
            _log.exception("%s: a defect of the agent", self._record.name)
            completed = Completed(OperationState.FAILED, describe(error))
        return await self._end(completed)

    async def _work(self) -> Completed:
        if self._cancel.is_set():
            return Completed(OperationState.CANCELLED)
        await asyncio.to_thread(leftovers.make_staging, self._request.staging_dir)
        try:
            if self._cancel.is_set():
                return Completed(OperationState.CANCELLED)
            self._move(OperationState.RUNNING)
            await self._write_state()
            end = await run_worker(self._record.name, self._request, self._emit, self._cancel, self._workers_lock)
        finally:
            await asyncio.to_thread(leftovers.remove_staging, self._request.staging_dir)
        if self._record.kind is OperationKind.RESTORE and not end.cleaned_up:
            await asyncio.to_thread(leftovers.remove_restore_work, self._record.path, self._record.name)
        return conclude(end, self._cancel.is_set())

    def _move(self, state: OperationState) -> None:
        self._record = msgspec.structs.replace(self._record, state=follow(self._record.state, state))
        self._emit(StateChanged(state))
        _log.info("%s: %s", self._record.name, state.value)

    def _emit(self, event: OperationEvent) -> None:
        logged = self.log.append(event)
        self._observer(self._record.name, self._record.kind, logged or self.log.draft(event))

    async def _write_state(self) -> None:
        try:
            await self._journal.set_state(self._record.name, self._record.state, self.log.last_sequence)
        except GpusnapError as error:
            _log.error("%s: its state could not be written: %s", self._record.name, error)

    async def _end(self, completed: Completed) -> OperationRecord:
        """Writes the end to the journal and then shows it: nobody sees an end that a restart would not remember."""
        self._ending = True
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
        return record


def conclude(end: WorkerEnd, cancelled: bool) -> Completed:
    """Returns how an operation ended whose process ended so; ``cancelled`` says whether it was asked to stop."""
    if isinstance(end.message, Succeeded):
        return Completed(OperationState.SUCCEEDED, None, end.message.result)
    result = end.message.result if isinstance(end.message, Failed) else None
    if cancelled:
        return Completed(OperationState.CANCELLED, None, result)
    if end.message is None:
        return Completed(OperationState.FAILED, describe(end.crash()))
    error = end.message.error
    if error.reason == CancelledError.reason:
        error = describe(WorkerCrashedError("the operation's process was told to stop, but not by its agent"))
    return Completed(OperationState.FAILED, bounded_error(error), result)
