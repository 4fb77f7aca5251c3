"""What a new agent does about the operations of a former one, and what one that drains refuses."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from agent.config.model import AgentConfig, Config, Credentials, Provider, StorageConfig
from agent.errors import OperationNotFoundError, ShuttingDownError
from agent.events import Completed, OperationEvent, OperationKind, OperationState, StateChanged, WarningRaised
from agent.operations.journal import Journal
from agent.operations.kept_work import KEPT_SECONDS, KeptWork
from agent.operations.manager import OperationManager
from agent.operations.measured import MeasuredStores
from agent.operations.order import (
    Order,
    RestoreOrder,
    SnapshotOrder,
    digest,
    has_credentials,
    kind_of,
    without_credentials,
)
from agent.operations.process import SILENCE_SECONDS
from agent.operations.record import LoggedEvent, OperationRecord, new_name
from agent.operations.recovery import CONTINUATIONS
from agent.operations.standby import Standby
from tests.support.processes import is_running, processes_running

WITH_KEYS = StorageConfig(
    provider=Provider.CUSTOM,
    bucket="bucket",
    endpoint="http://127.0.0.1:1",
    credentials=Credentials("id", "secret"),
)
"""A store that the agent has no keys for. Nothing answers there."""


class Agent:
    """A manager with its journal."""

    def __init__(
        self, folder: Path, lock: int, resume_on_start: bool = True, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        self.folder = folder
        self.journal = Journal(str(folder))
        self.observed: list[tuple[str, OperationKind, LoggedEvent]] = []
        config = Config(
            agent=AgentConfig(
                staging_dir=str(folder / "staging"), workspace_roots=(str(folder),), resume_on_start=resume_on_start
            ),
            storage=StorageConfig(provider=Provider.LOCAL, endpoint=str(folder)),
        )
        self.manager = OperationManager(
            config,
            self.journal,
            lambda name, kind, logged: self.observed.append((name, kind, logged)),
            Standby(lock, None),
            MeasuredStores(str(folder)),
            silence_seconds,
        )

    async def left_running(
        self, order: Order, state: OperationState, path: Path, continuations: int = 0, begun: str = ""
    ) -> OperationRecord:
        """Writes what an agent that was killed leaves in its journal."""
        record = OperationRecord(
            name=new_name(kind_of(order)),
            kind=kind_of(order),
            state=OperationState.PENDING,
            request_id=order.request_id,
            digest=digest(order),
            path=os.fsencode(path),
            snapshot="latest",
            request=without_credentials(order),
            create_time_ns=1,
            had_credentials=has_credentials(order),
        )
        record = await self.journal.add(record)
        left = msgspec.structs.replace(record, state=state, last_sequence=7, continuations=continuations, begun=begun)
        await self.journal.update(left)
        return left

    async def recovered(self, record: OperationRecord) -> list[LoggedEvent]:
        """Recovers, and returns the events of an operation that whoever has seen its last one still gets."""
        await self.manager.recover()
        return [logged async for logged in self.manager.events(record.name, record.last_sequence)]


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    made = Agent(tmp_path, lock)
    await made.journal.open()
    yield made
    await made.manager.drain(60, asyncio.Event())
    await made.journal.close()
    os.close(lock)


@pytest.fixture
def workspace(agent: Agent) -> Path:
    folder = agent.folder / "ws"
    folder.mkdir()
    (folder / "file").write_text("hello")
    return folder


async def test_what_was_cancelled_ends_and_is_removed(agent: Agent) -> None:
    target = agent.folder / "target"
    order = SnapshotOrder("", str(agent.folder / "ws"))
    saved = await agent.left_running(order, OperationState.CANCELLING, agent.folder / "ws")
    restore = RestoreOrder("", "latest", str(target))
    brought = await agent.left_running(restore, OperationState.CANCELLING, target)
    work = target / f".gpusnap-restore-{brought.name}"
    foreign = target / ".gpusnap-restore-restore-0000000000"
    staging = [agent.folder / "staging" / record.name for record in (saved, brought)]
    strange = agent.folder / "staging" / "restore-0000000000"
    for folder in (work, foreign, strange, *staging):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text("x")

    await agent.manager.recover()

    assert [folder.exists() for folder in (work, *staging)] == [False] * 3
    # What another agent may be using stays.
    assert [folder.exists() for folder in (foreign, strange)] == [True] * 2
    assert await agent.journal.unfinished() == []
    assert [name for name, _, _ in agent.observed] == [saved.name, brought.name]
    for record in (saved, brought):
        now = await agent.manager.get(record.name)
        assert now.state is OperationState.CANCELLED
        # Someone who had seen any event of the former run still gets the end.
        [last] = [logged async for logged in agent.manager.events(record.name, 1_000_000)]
        assert last.event == now.completed
    await agent.manager.recover()
    assert len(agent.observed) == 2


@pytest.mark.parametrize("state", [OperationState.PENDING, OperationState.RUNNING])
async def test_what_was_running_is_continued_under_its_name(
    agent: Agent, workspace: Path, state: OperationState
) -> None:
    record = await agent.left_running(SnapshotOrder("", str(workspace)), state, workspace)
    events = await agent.recovered(record)
    assert events[0].event == StateChanged(state)
    assert isinstance(events[1].event, WarningRaised)
    assert events[1].event.reason == "OPERATION_CONTINUED"
    assert isinstance(events[-1].event, Completed)
    assert events[-1].event.state is OperationState.SUCCEEDED
    # A third agent would go on counting beyond what the second one has shown.
    assert events[0].sequence == 1 << 32
    assert (await agent.manager.get(record.name)).last_sequence == events[-1].sequence
    assert await agent.journal.unfinished() == []


@pytest.mark.parametrize(("continuations", "goes_on"), [(CONTINUATIONS - 1, True), (CONTINUATIONS, False)])
async def test_one_that_agents_die_of_is_given_up(
    agent: Agent, workspace: Path, continuations: int, goes_on: bool
) -> None:
    order = SnapshotOrder("", str(workspace))
    record = await agent.left_running(order, OperationState.RUNNING, workspace, continuations)
    await agent.manager.recover()
    # As it would be found if this agent died now.
    assert [left.continuations for left in await agent.journal.unfinished()] == [CONTINUATIONS] * goes_on
    last = [logged async for logged in agent.manager.events(record.name)][-1].event
    assert isinstance(last, Completed)
    if goes_on:
        assert last.state is OperationState.SUCCEEDED
    else:
        assert last.state is OperationState.FAILED
        assert last.error is not None
        assert "each of its 3 continuations" in last.error.message


async def test_credentials_are_not_there_any_more(agent: Agent, workspace: Path) -> None:
    for order in (SnapshotOrder("", str(workspace), storage=WITH_KEYS), SnapshotOrder("me", "/w", storage=WITH_KEYS)):
        record = await agent.left_running(order, OperationState.RUNNING, workspace)
        [last] = await agent.recovered(record)
        assert isinstance(last.event, Completed)
        assert last.event.error is not None
        assert (last.event.error.reason, last.event.error.retryable) == ("CREDENTIALS_NEEDED", True)
        assert "keeps no credentials" in last.event.error.message
        assert "repeat the request" in last.event.error.hint
        assert ("'me'" in last.event.error.hint) == bool(order.request_id)


class Left:
    """A restore that lacks its credentials since its agent was restarted, and what it has begun."""

    def __init__(self, agent: Agent, record: OperationRecord, target: Path) -> None:
        self.agent = agent
        self.record = record
        self.work = target / f".gpusnap-restore-{record.name}"
        self.running: list[OperationRecord] = []
        self.kept = KeptWork(agent.journal, asyncio.Lock(), lambda: self.running)

    async def age(self, seconds: int) -> None:
        """Makes its end earlier."""
        record = await self.agent.manager.get(self.record.name)
        await self.agent.journal.finish(
            msgspec.structs.replace(record, end_time_ns=record.end_time_ns - seconds * 10**9), []
        )

    async def is_kept(self) -> bool:
        """Whether what it has begun is there, for the journal too."""
        await self.kept.remove_old()
        kept = [one.name for one in await self.agent.journal.keeping_work()] == [self.record.name]
        assert self.work.exists() == kept
        return kept


@pytest_asyncio.fixture
async def left(agent: Agent) -> Left:
    target = agent.folder / "target"
    order = RestoreOrder("bring", "latest", str(target), storage=WITH_KEYS)
    record = await agent.left_running(order, OperationState.RUNNING, target, begun="20261123T110512Z-4f2a9c01")
    made = Left(agent, record, target)
    made.work.mkdir(parents=True)
    (made.work / "large-0").write_bytes(b"half of it")
    await agent.manager.recover()
    return made


async def test_what_was_begun_is_kept_for_a_while(left: Left) -> None:
    assert await left.is_kept()
    await left.age(KEPT_SECONDS - 60)
    assert await left.is_kept()
    await left.age(120)
    inside = msgspec.structs.replace(left.record, name="snapshot-1", path=left.record.path + b"/deep")
    left.running = [inside]
    assert await left.is_kept()
    left.running = []
    assert not await left.is_kept()
    assert (await left.agent.manager.get(left.record.name)).state is OperationState.FAILED


async def test_what_was_begun_is_the_operation_s_own_until_others_come(left: Left) -> None:
    record, path = await left.agent.manager.get(left.record.name), left.record.path
    assert await left.kept.is_own(record, path)
    assert not await left.kept.is_own(record, path + b"2")
    for other, begun in (("other", "s"), ("target/deep", ""), ("target/deep", "s")):
        assert await left.kept.is_own(record, path)
        order = RestoreOrder("", "latest", str(left.agent.folder / other))
        await left.agent.left_running(order, OperationState.RUNNING, left.agent.folder / other, begun=begun)
    assert not await left.kept.is_own(record, path)


async def test_what_is_not_its_own_any_more_is_begun_anew(left: Left) -> None:
    await left.age(KEPT_SECONDS + 60)
    assert not await left.is_kept()
    left.work.mkdir()
    order = RestoreOrder("bring", "latest", str(left.agent.folder / "target"), storage=WITH_KEYS)
    record = await left.agent.manager.start(order)
    assert (record.name, record.begun, record.continuations) == (left.record.name, "", 1)
    assert not left.work.exists()
    await left.agent.manager.cancel(record.name)


async def test_what_cannot_be_done_any_more_fails(agent: Agent) -> None:
    gone = agent.folder / "gone"
    record = await agent.left_running(SnapshotOrder("", str(gone)), OperationState.RUNNING, gone)
    strange = msgspec.structs.replace(record, name=new_name(record.kind), request=b'{"type": "dance"}')
    await agent.journal.add(strange)
    [last] = await agent.recovered(record)
    assert isinstance(last.event, Completed)
    assert last.event.error is not None
    assert last.event.error.reason == "PATH_NOT_FOUND"
    now = await agent.manager.get(strange.name)
    assert now.completed is not None
    assert now.completed.error is not None
    assert now.completed.error.reason == "JOURNAL_UNUSABLE"


async def test_an_agent_that_is_not_to_continue(tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    agent = Agent(tmp_path, 0, resume_on_start=False)
    await agent.journal.open()
    order = SnapshotOrder("", str(tmp_path / "ws"))
    record = await agent.left_running(order, OperationState.RUNNING, tmp_path / "ws")
    [last] = await agent.recovered(record)
    assert isinstance(last.event, Completed)
    assert last.event.error is not None
    assert (last.event.error.reason, last.event.error.retryable) == ("WORKER_CRASHED", True)
    await agent.journal.close()


async def test_one_that_drains_starts_nothing(agent: Agent) -> None:
    await agent.manager.drain(0, asyncio.Event())
    with pytest.raises(ShuttingDownError):
        await agent.manager.start(SnapshotOrder("", str(agent.folder)))
    assert await agent.manager.page(0, 10) == []


async def test_one_that_drains_waits_until_what_it_leaves_has_stopped(agent: Agent, workspace: Path) -> None:
    await agent.left_running(SnapshotOrder("", str(workspace)), OperationState.RUNNING, workspace)
    await agent.manager.recover()
    await agent.manager.drain(0, asyncio.Event())
    [left] = await agent.journal.unfinished()
    assert left.continuations == 0, "the agent did not die of it"
    assert not processes_running("agent.operations.worker")


async def test_one_that_drains_waits_until_what_it_cancels_has_stopped(tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    agent = Agent(tmp_path, 0, resume_on_start=False)
    await agent.journal.open()
    record = await agent.manager.start(SnapshotOrder("", str(tmp_path / "ws")))
    await agent.manager.drain(0, asyncio.Event())
    ended = await agent.journal.get(record.name)
    assert ended is not None
    assert ended.state is OperationState.CANCELLED
    await agent.journal.close()


async def test_an_unknown_operation(agent: Agent) -> None:
    for attempt in (agent.manager.get("x"), agent.manager.cancel("x"), anext(agent.manager.events("x"))):
        with pytest.raises(OperationNotFoundError, match="'x'"):
            await attempt


async def test_callers_that_leave_while_their_operations_are_admitted(agent: Agent) -> None:
    # However far the start has come when its caller goes away: it is not there at all, or it runs to its end.
    for turns in range(6):
        workspace = agent.folder / f"ws-{turns}"
        workspace.mkdir()
        starting = asyncio.ensure_future(agent.manager.start(SnapshotOrder(f"id-{turns}", str(workspace))))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        starting.cancel()
        await asyncio.wait({starting})
    await agent.manager.drain(60, asyncio.Event())
    assert not agent.manager.running
    assert await agent.journal.unfinished() == []


async def test_a_process_that_is_stopped_for_ever_gets_a_successor(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    # Long enough for a process to begin, and much longer than one that works is silent.
    agent = Agent(tmp_path, lock, silence_seconds=10.0)
    (tmp_path / "ws").mkdir()
    await agent.journal.open()
    record = await agent.manager.start(SnapshotOrder("", str(tmp_path / "ws")))
    stopped: set[int] = set()
    events: list[OperationEvent] = []

    async def stop_and_follow() -> None:
        async for logged in agent.manager.events(record.name):
            events.append(logged.event)
            if logged.event == StateChanged(OperationState.RUNNING):
                while not stopped:
                    stopped.update(processes_running("agent.operations.worker"))
                    await asyncio.sleep(0)
                for process in stopped:
                    os.kill(process, signal.SIGSTOP)

    await asyncio.wait_for(stop_and_follow(), 60)
    assert [event.reason for event in events if isinstance(event, WarningRaised)] == ["OPERATION_RETRIED"]
    assert isinstance(events[-1], Completed)
    assert events[-1].state is OperationState.SUCCEEDED
    assert not any(map(is_running, stopped))
    await agent.journal.close()
    os.close(lock)
