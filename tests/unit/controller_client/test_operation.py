"""Following an operation: what a handle makes of streams that break, repeat and end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import grpc
import grpc.aio
import pytest

from controller_client.errors import (
    AgentUnreachableError,
    CancelledError,
    DataLossError,
    GpusnapError,
    OperationNotFoundError,
)
from controller_client.model import (
    Completed,
    DamagedChunk,
    Event,
    EventDetail,
    Failure,
    OperationResult,
    OperationState,
    StateChanged,
)
from controller_client.operation import EventStream, OperationHandle
from controller_client.reattach import ReattachPolicy
from tests.unit.controller_client.test_errors import rpc_error

RUNNING = StateChanged(OperationState.RUNNING)
DONE = Completed(OperationState.SUCCEEDED, result=OperationResult("id", chunks=3))
LOST = rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed")
QUICK = ReattachPolicy(seconds=5.0, first_delay=0.001, longest_delay=0.001)

Script = Sequence[Event | Exception]


class Agent:
    """Answers each watch with the next script; remembers after which event it was asked."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.asked: list[int] = []
        self.open = 0

    def watch(self, name: str, after_sequence: int) -> EventStream:
        assert name == "snapshot-1"
        self.asked.append(after_sequence)
        return self._play(self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0])

    async def _play(self, script: Script) -> EventStream:
        self.open += 1
        try:
            for item in script:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.open -= 1

    def follow(self, policy: ReattachPolicy = QUICK) -> OperationHandle:
        return OperationHandle("snapshot-1", "host:1", self.watch, policy)


def event(sequence: int, detail: EventDetail = RUNNING) -> Event:
    return Event("snapshot-1", sequence, 0, detail)


async def sequences(handle: OperationHandle) -> list[int]:
    return [item.sequence async for item in handle]


async def test_events_come_in_order_and_the_completion_ends_them() -> None:
    agent = Agent([event(1), event(2, DONE), event(3)])
    handle = agent.follow()
    assert await sequences(handle) == [1, 2]
    assert await handle.result() == DONE.result
    assert await sequences(handle) == []
    assert agent.open == 0


@pytest.mark.parametrize(
    "broken",
    [[LOST], [], [rpc_error(grpc.StatusCode.UNAVAILABLE, "draining", reason="SHUTTING_DOWN")]],
    ids=["lost", "closed", "draining"],
)
async def test_a_broken_stream_goes_on_after_its_last_event(broken: Script) -> None:
    agent = Agent([event(1), event(4), *broken], broken, [event(5), event(6, DONE)])
    handle = agent.follow()
    assert await sequences(handle) == [1, 4, 5, 6]
    assert agent.asked == [0, 4, 4]


async def test_events_that_are_repeated_are_handed_out_once() -> None:
    agent = Agent([event(1), event(2), LOST], [event(1), event(2), event(2), event(3, DONE)])
    assert await sequences(agent.follow()) == [1, 2, 3]


async def test_an_agent_that_stays_away_is_given_up_with_the_operation_named() -> None:
    lost: list[str] = []
    agent = Agent([event(1), LOST], [LOST])
    handle = agent.follow(ReattachPolicy(0.05, 0.001, 0.01, on_lost=lambda error: lost.append(error.message)))
    with pytest.raises(AgentUnreachableError) as caught:
        await handle.result()
    assert caught.value.metadata == {"operation": "snapshot-1"}
    assert "snapshot-1" in caught.value.hint
    assert len(lost) == 1
    assert len(agent.asked) > 2
    assert handle.last_sequence == 1


async def test_after_giving_up_the_handle_can_go_on() -> None:
    agent = Agent([event(1), LOST], [event(2, DONE)])
    handle = agent.follow(ReattachPolicy(seconds=0.0))
    with pytest.raises(AgentUnreachableError):
        await handle.result()
    assert await sequences(handle) == [2]


async def test_what_is_no_lost_connection_is_raised_at_once() -> None:
    agent = Agent([rpc_error(grpc.StatusCode.NOT_FOUND, "no such operation", reason="OPERATION_NOT_FOUND")])
    with pytest.raises(OperationNotFoundError):
        await agent.follow().result()
    assert agent.asked == [0]


@pytest.mark.parametrize(
    ("completed", "cls"),
    [
        (Completed(OperationState.FAILED, Failure("DATA_LOSS", "m", damaged=(DamagedChunk("c", "p"),))), DataLossError),
        (Completed(OperationState.CANCELLED, Failure("CANCELLED", "m")), CancelledError),
        (Completed(OperationState.CANCELLED), CancelledError),
        (Completed(OperationState.FAILED), GpusnapError),
        (Completed(OperationState.SUCCEEDED), GpusnapError),
    ],
)
async def test_how_it_ended_decides_what_result_raises(completed: Completed, cls: type[GpusnapError]) -> None:
    handle = Agent([event(1, completed)]).follow()
    for _ in range(2):
        with pytest.raises(GpusnapError) as caught:
            await handle.result()
        assert type(caught.value) is cls


async def test_an_interrupted_wait_loses_no_event() -> None:
    gate = asyncio.Event()

    async def slow() -> EventStream:
        yield event(1)
        await gate.wait()
        yield event(2, DONE)

    streams: list[Callable[[], EventStream]] = [slow, lambda: Agent([event(2, DONE)]).watch("snapshot-1", 1)]
    handle = OperationHandle("snapshot-1", "host:1", lambda name, after: streams.pop(0)(), QUICK)
    assert (await handle.__anext__()).sequence == 1
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(handle.__anext__(), 0.01)
    assert await sequences(handle) == [2]


async def test_closing_ends_the_call() -> None:
    agent = Agent([event(1), event(2), event(3, DONE)])
    async with agent.follow() as handle:
        await handle.__anext__()
        assert agent.open == 1
    assert agent.open == 0


async def test_two_readers_share_the_events() -> None:
    agent = Agent([*(event(number) for number in range(1, 50)), event(50, DONE)])
    handle = agent.follow()
    one, two = await asyncio.gather(sequences(handle), sequences(handle))
    assert sorted(one + two) == list(range(1, 51))
