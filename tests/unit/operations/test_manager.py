"""What a new agent does about the operations of a former one, and what one that drains refuses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from agent.config.model import AgentConfig, Config, Provider, StorageConfig
from agent.errors import OperationNotFoundError, ShuttingDownError
from agent.events import OperationKind, OperationState
from agent.operations.journal import Journal
from agent.operations.manager import OperationManager
from agent.operations.order import SnapshotOrder
from agent.operations.record import LoggedEvent, OperationRecord, new_name


class Agent:
    """A manager with its journal."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self.journal = Journal(str(folder))
        self.observed: list[tuple[str, OperationKind, LoggedEvent]] = []
        config = Config(
            agent=AgentConfig(staging_dir=str(folder / "staging"), workspace_roots=(str(folder),)),
            storage=StorageConfig(provider=Provider.LOCAL, endpoint=str(folder)),
        )
        self.manager = OperationManager(
            config, self.journal, lambda name, kind, logged: self.observed.append((name, kind, logged)), lock
        )

    async def left_running(self, kind: OperationKind, state: OperationState, path: Path) -> OperationRecord:
        """Writes what an agent that was killed leaves in its journal."""
        record = OperationRecord(
            name=new_name(kind),
            kind=kind,
            state=OperationState.PENDING,
            request_id="",
            digest="",
            path=os.fsencode(path),
            snapshot="latest",
            request=b"{}",
            create_time_ns=1,
        )
        record = await self.journal.add(record)
        await self.journal.set_state(record.name, state, 7)
        return msgspec.structs.replace(record, state=state, last_sequence=7)


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    made = Agent(tmp_path, lock)
    await made.journal.open()
    yield made
    await made.journal.close()
    os.close(lock)


async def test_what_a_former_agent_left_is_ended_and_removed(agent: Agent) -> None:
    target = agent.folder / "target"
    saved = await agent.left_running(OperationKind.SNAPSHOT, OperationState.CANCELLING, agent.folder / "ws")
    brought = await agent.left_running(OperationKind.RESTORE, OperationState.RUNNING, target)
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
        assert now.state is OperationState.FAILED
        assert now.completed is not None
        assert now.completed.error is not None
        assert now.completed.error.reason == "WORKER_CRASHED"
        assert now.completed.error.retryable
        # Someone who had seen any event of the former run still gets the end.
        [last] = [logged async for logged in agent.manager.events(record.name, 1_000_000)]
        assert last.event == now.completed
    await agent.manager.recover()
    assert len(agent.observed) == 2


async def test_one_that_drains_starts_nothing(agent: Agent) -> None:
    await agent.manager.drain(0, asyncio.Event())
    with pytest.raises(ShuttingDownError):
        await agent.manager.start(SnapshotOrder("", str(agent.folder)))
    assert await agent.manager.page(0, 10) == []


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
