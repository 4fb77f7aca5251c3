"""All operations of the agent: starting them once, finding them, watching them, stopping them."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec

from agent.config.model import Config, StorageConfig
from agent.errors import (
    GpusnapError,
    OperationNotFoundError,
    RequestIdReusedError,
    ShuttingDownError,
    describe,
)
from agent.events import Completed, OperationKind, OperationState
from agent.maintenance.request import BenchmarkRequest, VerifyRequest
from agent.operations import leftovers
from agent.operations.checks import check_order, check_request_id
from agent.operations.held import held_path, refuse_busy
from agent.operations.hub import EventLog, first_sequence_after_restart
from agent.operations.journal import Journal
from agent.operations.kept_work import KeptWork
from agent.operations.measured import MeasuredStores
from agent.operations.operation import LiveOperation, Observer
from agent.operations.order import (
    Order,
    digest,
    from_journal,
    has_credentials,
    kind_of,
    snapshot_of,
    without_credentials,
)
from agent.operations.process import SILENCE_SECONDS
from agent.operations.record import LoggedEvent, OperationRecord, new_name
from agent.operations.recovery import continued, end_instead, goes_on_with, keeps_work, reopened
from agent.operations.request import Request
from agent.operations.standby import Standby
from agent.operations.states import follow
from agent.restore.request import RestoreRequest
from agent.snapshot.request import SnapshotRequest

LOGS_KEPT = 16
"""Logs of ended operations that stay in memory with their last chunks; the others come from the journal."""

STOP_SECONDS = 10.0
"""How long the end of operations that were asked to stop is waited for; each is killed well before."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class OperationManager:
    """The operations of one agent. Belongs to the event loop; ``recover`` comes first.

    Args:
        config: the agent's configuration.
        journal: the open journal.
        observer: told of each event of each operation.
        processes: where operations get their processes.
        measured: what is known of the transfer engines.
        silence_seconds: how long the process of an operation may give no sign of life.
    """

    def __init__(
        self,
        config: Config,
        journal: Journal,
        observer: Observer,
        processes: Standby,
        measured: MeasuredStores,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._config = config
        self._journal = journal
        self._observer = observer
        self._processes = processes
        self._measured = measured
        self._silence_seconds = silence_seconds
        self._live: dict[str, LiveOperation] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._ended: OrderedDict[str, tuple[OperationRecord, EventLog]] = OrderedDict()
        self._admission = asyncio.Lock()
        self._kept_work = KeptWork(journal, self._admission, lambda: self.running)
        self._draining = False

    @property
    def running(self) -> list[OperationRecord]:
        """The operations that have not ended, the oldest first."""
        return [operation.record for operation in self._live.values()]

    async def recover(self) -> None:
        """Continues what a former run of the agent left running, or ends it and removes what it left behind.

        No process of the former run may be alive any more.
        """
        for record in await self._journal.unfinished():
            staging = leftovers.staging_folder(self._config.agent.staging_dir, record.name)
            await asyncio.to_thread(leftovers.remove_staging, staging)
            completed = end_instead(record, self._config.agent.resume_on_start) or await self._continue(record)
            if completed is not None:
                await self._end_left(record, completed)
        self._prepare()

    async def tidy(self) -> None:
        """Removes, until it is cancelled, what failed restores have left and nobody has gone on with for long."""
        await self._kept_work.tidy()

    async def start(self, order: Order) -> OperationRecord:
        """Starts an operation, or returns the one that the same request id has started before.

        One that has ended for want of credentials is continued if the order brings some. A caller that goes away
        meanwhile changes nothing: the operation starts all the same.

        Raises:
            ShuttingDownError: the agent drains.
            RequestIdReusedError: the id started another operation.
            WorkspaceBusyError: another operation holds the path, one above it or one below it.
            GpusnapError: what ``agent.operations.checks.check_order`` and the journal raise.
        """
        check_request_id(order.request_id)
        known = await self._known(order)
        if known is not None and not goes_on_with(known, order):
            return known
        if self._draining:
            raise ShuttingDownError("the agent is shutting down and starts nothing new")
        request = await asyncio.to_thread(check_order, order, self._config)
        admission = asyncio.ensure_future(self._admit(order, request))
        self._hold(admission)
        return await asyncio.shield(admission)

    async def get(self, name: str) -> OperationRecord:
        """Returns one operation.

        Raises:
            OperationNotFoundError: there is none of this name, or it was long ago.
        """
        live = self._live.get(name)
        if live is not None:
            return live.record
        if name in self._ended:
            return self._ended[name][0]
        record = await self._journal.get(name)
        if record is None:
            raise OperationNotFoundError(f"there is no operation {name[:100]!r}")
        return record

    async def page(self, before: int, limit: int) -> list[OperationRecord]:
        """Returns at most ``limit`` operations whose number is smaller, the newest first; 0 begins at the newest."""
        return [self._newest(record) for record in await self._journal.page(before, limit)]

    async def cancel(self, name: str) -> OperationRecord:
        """Asks an operation to stop and returns it; one that has ended stays as it is.

        Raises:
            OperationNotFoundError: there is none of this name.
        """
        live = self._live.get(name)
        if live is None:
            return await self.get(name)
        await live.cancel()
        return live.record

    async def events(self, name: str, after_sequence: int = 0) -> AsyncIterator[LoggedEvent]:
        """Yields an operation's events with a greater number, as they come, up to its completion.

        Raises:
            OperationNotFoundError: there is none of this name.
        """
        if name in self._live:
            log = self._live[name].log
        elif name in self._ended:
            log = self._ended[name][1]
        else:
            await self.get(name)
            log = EventLog.rebuilt(await self._journal.history(name))
        async for logged in log.read(after_sequence):
            yield logged

    def refuse_new(self) -> None:
        """Starts nothing new from now on."""
        self._draining = True

    async def drain(self, seconds: float, hurry: asyncio.Event) -> None:
        """Lets operations go on for so many seconds, or until ``hurry`` is set, and then stops them.

        Those that the next agent can continue are left to it, the others are cancelled. Returns when all have stopped
        and the journal knows.
        """
        self.refuse_new()
        async with self._admission:
            pass
        if self._tasks:
            hurried = asyncio.ensure_future(hurry.wait())
            all_ended = asyncio.ensure_future(asyncio.wait(self._tasks))
            await asyncio.wait({hurried, all_ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            all_ended.cancel()
        for operation in list(self._live.values()):
            if self._config.agent.resume_on_start and operation.can_be_left:
                operation.interrupt()
            else:
                await operation.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        await self._processes.close()

    async def _known(self, order: Order) -> OperationRecord | None:
        """Returns the operation that the order's request id has started before."""
        if not order.request_id:
            return None
        known = await self._journal.by_request_id(order.request_id)
        if known is None:
            return None
        if known.digest != digest(order):
            raise RequestIdReusedError(
                f"request_id {order.request_id!r} started {known.name} with another request",
                metadata={"operation": known.name},
            )
        return self._newest(known)

    def _newest(self, record: OperationRecord) -> OperationRecord:
        """Returns what is known of an operation by now: the journal may not have been written since."""
        live = self._live.get(record.name)
        if live is not None:
            return live.record
        return self._ended[record.name][0] if record.name in self._ended else record

    async def _admit(self, order: Order, request: Request) -> OperationRecord:
        async with self._admission:
            known = await self._known(order)
            if known is not None and not goes_on_with(known, order):
                return known
            if self._draining:
                raise ShuttingDownError("the agent is shutting down and starts nothing new")
            path = held_path(request)
            refuse_busy(path, [*self.running, *self._kept_work.holders])
            if known is not None:
                return await self._reopen(known, request, path)
            kind = kind_of(order)
            name = new_name(kind)
            record = await self._journal.add(
                OperationRecord(
                    name=name,
                    kind=kind,
                    state=OperationState.PENDING,
                    request_id=order.request_id,
                    digest=digest(order),
                    path=path,
                    snapshot=snapshot_of(order),
                    request=without_credentials(order),
                    create_time_ns=time.time_ns(),
                    last_sequence=1,
                    had_credentials=has_credentials(order),
                )
            )
            return self._launch(record, await self._addressed(request, name)).record

    async def _continue(self, record: OperationRecord) -> Completed | None:
        """Starts an operation again; returns how it ends if that is not possible."""
        try:
            request = await asyncio.to_thread(check_order, from_journal(record.request), self._config)
        except GpusnapError as error:
            return Completed(OperationState.FAILED, describe(error))
        record = continued(record)
        # Before it runs: an agent that dies of it must know at its next start.
        await self._journal.update(record)
        self._launch(record, await self._addressed(request, record.name))
        _log.warning("%s: continued after a restart of the agent", record.name)
        return None

    async def _reopen(self, record: OperationRecord, request: Request, path: bytes) -> OperationRecord:
        """Continues an operation that has ended for want of the credentials that its request has now."""
        is_own = await self._kept_work.is_own(record, path)
        if not is_own:
            await asyncio.to_thread(leftovers.remove_restore_work, record.path, record.name)
        record = reopened(record, path, is_own)
        await self._journal.reopen(record)
        _log.info("%s: continued with new credentials", record.name)
        return self._launch(record, await self._addressed(request, record.name)).record

    async def _end_left(self, record: OperationRecord, completed: Completed) -> None:
        """Ends in the journal an operation that a former run of the agent left, and removes what that left behind."""
        is_kept = keeps_work(record, completed)
        if record.kind is OperationKind.RESTORE and not is_kept:
            await asyncio.to_thread(leftovers.remove_restore_work, record.path, record.name)
        last = LoggedEvent(first_sequence_after_restart(record.last_sequence), time.time_ns(), completed)
        ended = msgspec.structs.replace(
            record,
            state=follow(record.state, completed.state),
            end_time_ns=last.time_ns,
            last_sequence=last.sequence,
            completed=completed,
            keeps_work=is_kept,
        )
        await self._journal.finish(ended, [last])
        self._observer(record.name, record.kind, last)
        reason = f": {completed.error.message}" if completed.error else ""
        _log.warning("%s: %s after a restart of the agent%s", record.name, completed.state.value, reason)

    async def _addressed(self, request: Request, name: str) -> Request:
        """Returns the request with what depends on the operation's name, and with what is known by now."""
        staging = leftovers.staging_folder(self._config.agent.staging_dir, name)
        request = msgspec.structs.replace(request, staging_dir=staging)
        if isinstance(request, SnapshotRequest | RestoreRequest | VerifyRequest):
            request = msgspec.structs.replace(request, measurements=self._measured.of(request.storage))
        if isinstance(request, BenchmarkRequest):
            earlier = await self._journal.ended(OperationKind.BENCHMARK)
            return msgspec.structs.replace(request, operation=name, earlier=tuple(earlier))
        return msgspec.structs.replace(request, operation=name) if isinstance(request, RestoreRequest) else request

    def _launch(self, record: OperationRecord, request: Request) -> LiveOperation:
        observer = functools.partial(self._observe, request.storage)
        operation = LiveOperation(record, request, self._journal, observer, self._processes, self._silence_seconds)
        self._live[record.name] = operation
        self._hold(asyncio.ensure_future(self._run(record.name, operation)))
        return operation

    def _observe(self, storage: StorageConfig, name: str, kind: OperationKind, logged: LoggedEvent) -> None:
        result = logged.event.result if isinstance(logged.event, Completed) else None
        if result is not None and result.measurements:
            self._measured.take(storage, result.measurements, name)
            self._hold(asyncio.ensure_future(self._measured.save()))
        self._observer(name, kind, logged)

    def _hold(self, task: asyncio.Task[_T]) -> None:
        """Keeps a task until it is done: the event loop itself would forget one that nobody awaits."""
        self._tasks.add(task)
        task.add_done_callback(self._release)

    def _release(self, task: asyncio.Task[_T]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, GpusnapError):
            _log.error("a defect of the agent", exc_info=error)

    async def _run(self, name: str, operation: LiveOperation) -> None:
        try:
            await operation.run()
        finally:
            # One that is left to the next agent is still there for whoever asks this one.
            if operation.record.completed is not None:
                del self._live[name]
                self._ended[name] = (operation.record, operation.log)
                while len(self._ended) > LOGS_KEPT:
                    self._ended.popitem(last=False)
            self._prepare()

    def _prepare(self) -> None:
        """Has a process kept ready for the next operation, once that takes nothing from one that runs."""
        if not self._live and not self._draining:
            self._processes.prepare()
