"""Following one operation, across lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType

import grpc.aio

from controller_client.errors import AgentUnreachableError, from_completed
from controller_client.model import Completed, Event, OperationResult
from controller_client.reattach import Outage, ReattachPolicy
from controller_client.status import from_rpc_error, is_lost_connection

EventStream = AsyncGenerator[Event, None]
"""The events of one call, converted. Closing it ends the call."""


class OperationHandle:
    """One operation of an agent, being followed.

    Iterating yields its events, the last one with a ``Completed``; ``result`` waits for the end. A lost connection
    is taken up again without losing or repeating an event. Leaving it, or losing the client, never stops the
    operation: ``AgentClient.cancel`` does.
    """

    def __init__(
        self,
        name: str,
        address: str,
        open_watch: Callable[[str, int], EventStream],
        policy: ReattachPolicy,
        *,
        stream: EventStream | None = None,
        first: Event | None = None,
        after_sequence: int = 0,
    ) -> None:
        self.name = name
        self._address = address
        self._open_watch = open_watch
        self._policy = policy
        self._stream = stream
        self._first = first
        self._sequence = after_sequence
        self._completed: Completed | None = None
        self._turn = asyncio.Lock()

    @property
    def last_sequence(self) -> int:
        """The sequence number of the last event that was handed out."""
        return self._sequence

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """Returns the next event.

        Raises:
            OperationNotFoundError: the agent does not know the operation.
            AgentUnreachableError: the connection was lost for longer than the policy allows.
        """
        async with self._turn:
            event = await self._next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def result(self) -> OperationResult:
        """Waits for the end, passing over what was not iterated, and returns what the operation did.

        Raises:
            GpusnapError: the operation failed (the class says why) or was cancelled (CancelledError).
        """
        async for _ in self:
            pass
        assert self._completed is not None
        error = from_completed(self._completed, self.name)
        if error is not None:
            raise error
        assert self._completed.result is not None
        return self._completed.result

    async def close(self) -> None:
        """Stops following. The operation goes on."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def __aenter__(self) -> OperationHandle:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _next(self) -> Event | None:
        if self._first is not None:
            event, self._first = self._first, None
            return await self._take(event)
        if self._completed is not None:
            return None
        return await self._take(await self._receive())

    async def _take(self, event: Event) -> Event:
        self._sequence = event.sequence
        if isinstance(event.detail, Completed):
            self._completed = event.detail
            await self.close()
        return event

    async def _receive(self) -> Event:
        outage = Outage(self._policy)
        while True:
            try:
                if self._stream is None:
                    self._stream = self._open_watch(self.name, self._sequence)
                event = await self._stream.__anext__()
                if event.sequence > self._sequence:
                    return event
                continue
            except StopAsyncIteration:
                lost = self._lost(f"agent {self._address}: it closed the stream of {self.name} before its end")
            except grpc.aio.AioRpcError as error:
                failed = from_rpc_error(error, self._address)
                if not is_lost_connection(error):
                    raise failed from error
                lost = self._lost(failed.message)
            await self.close()
            await outage.wait(lost)

    def _lost(self, message: str) -> AgentUnreachableError:
        hint = f"the operation is the agent's and may go on: attach again to {self.name} when the agent is back"
        return AgentUnreachableError(message, hint=hint, metadata={"operation": self.name})
