"""A process that waits for the next operation, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.config.model import Provider, StorageConfig
from agent.events import OperationResult, Succeeded
from agent.operations.process import OperationProcess, WorkerEnd
from agent.operations.standby import Standby
from agent.snapshot.request import SnapshotRequest
from tests.support.daemon import descendants
from tests.support.processes import is_running, processes_running, wait_until

REQUEST = SnapshotRequest(b"/w", "/s", StorageConfig(provider=Provider.LOCAL, endpoint="/r"))
SCRIPT = """
import sys
sys.stdin.readline()
print('{"type": "succeeded", "result": {"snapshot_id": "' + ",".join(sys.argv[1:]) + '"}}', flush=True)
"""
PROGRAM = (sys.executable, "-c", SCRIPT)


@pytest_asyncio.fixture
async def standby(tmp_path: Path) -> AsyncIterator[Standby]:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    made = Standby(fd, 2, PROGRAM, delay_seconds=0.0)
    yield made
    await made.close()
    os.close(fd)


def waiting() -> set[int]:
    return {pid for pid in descendants(os.getpid()) if SCRIPT.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()}


async def until_waiting() -> int:
    while not waiting():
        await asyncio.sleep(0.01)
    (pid,) = waiting()
    return pid


async def perform(process: OperationProcess) -> WorkerEnd:
    return await process.perform("x", REQUEST, lambda event: None, asyncio.Event(), asyncio.Event())


def done(arguments: str) -> WorkerEnd:
    return WorkerEnd(Succeeded(OperationResult(arguments)), 0)


async def test_the_process_that_waits_does_the_operation(standby: Standby) -> None:
    standby.prepare()
    pid = await until_waiting()
    process = await standby.take()
    assert process.pid == pid
    assert await perform(process) == done("2"), "it was told how many workers wait with it"
    assert not is_running(pid)


async def test_without_one_a_process_is_started(standby: Standby) -> None:
    process = await standby.take()
    assert await perform(process) == done(""), "it waits for nothing"


async def test_only_one_waits_and_only_the_first_gets_it(standby: Standby) -> None:
    standby.prepare()
    standby.prepare()
    pid = await until_waiting()
    standby.prepare()
    first, second = await asyncio.gather(standby.take(), standby.take())
    assert [first.pid == pid, second.pid == pid].count(True) == 1
    assert {await perform(first), await perform(second)} == {done("2"), done("")}
    assert waiting() == set()


async def test_one_that_died_meanwhile_is_replaced(standby: Standby) -> None:
    standby.prepare()
    pid = await until_waiting()
    os.kill(pid, signal.SIGKILL)
    while is_running(pid):
        await asyncio.sleep(0.01)
    process = await standby.take()
    assert await perform(process) == done("")


async def test_an_operation_that_comes_at_once_waits_for_none(tmp_path: Path) -> None:
    standby = Standby(0, 2, PROGRAM, delay_seconds=60.0)
    standby.prepare()
    process = await standby.take()
    assert await perform(process) == done("")
    standby.prepare()
    await standby.close()
    assert waiting() == set()


async def test_none_is_started_beside_an_operation(standby: Standby) -> None:
    standby._delay_seconds = 0.05
    standby.prepare()
    process = await standby.take()
    await asyncio.sleep(0.2)
    assert waiting() == {process.pid}
    await process.close()


async def test_nothing_waits_after_its_end_or_where_nothing_shall(standby: Standby) -> None:
    standby.prepare()
    pid = await until_waiting()
    await standby.close()
    assert not is_running(pid)
    standby.prepare()
    without = Standby(0, None, PROGRAM, delay_seconds=0.0)
    without.prepare()
    await asyncio.sleep(0.1)
    assert waiting() == set()


async def test_one_that_cannot_be_started_is_told_of(standby: Standby, caplog: pytest.LogCaptureFixture) -> None:
    standby._program = ("/nonexistent/program",)
    standby.prepare()
    while not caplog.messages:
        await asyncio.sleep(0.01)
    assert caplog.messages == [
        "no process could be kept ready: the operation's process could not be started: No such file or directory"
    ]
    standby._program = PROGRAM
    assert await perform(await standby.take()) == done("")


@pytest.mark.parametrize("end", ["close", "die"])
async def test_the_real_one_ends_with_its_daemon_and_its_workers_with_it(tmp_path: Path, end: str) -> None:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    standby = Standby(fd, 2, delay_seconds=0.0)
    standby.prepare()
    while not processes_running("agent.operations.worker"):
        await asyncio.sleep(0.01)
    (pid,) = processes_running("agent.operations.worker")
    while len(workers := descendants(pid)) < 2:
        await asyncio.sleep(0.01)
    if end == "die":
        # What its death does: nobody holds the other end of its stdin any more.
        process = await standby.take()
        process._transport.get_pipe_transport(0).close()  # type: ignore[union-attr]
        await asyncio.wait_for(asyncio.wait({process._protocol.exited}), 30)
        await process.close()
    await standby.close()
    wait_until(lambda: not any(map(is_running, {pid, *workers})), "all to end")
    os.close(fd)
