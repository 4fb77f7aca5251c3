"""The daemon's side of an operation's process, with real processes that behave badly."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.config.model import Provider, StorageConfig
from agent.errors import StorageUnavailableError, WorkerCrashedError, describe
from agent.events import Begun, Completed, Failed, FileReady, OperationResult, OperationState, PipelineEvent, Succeeded
from agent.operations import process
from agent.operations.operation import conclude
from agent.operations.process import WorkerEnd, start_process
from agent.snapshot.request import SnapshotRequest
from tests.support.processes import is_running, wait_until

REQUEST = SnapshotRequest(b"/w", "/s", StorageConfig(provider=Provider.LOCAL, endpoint="/r"))

PRELUDE = """
import os, signal, subprocess, sys, time
request = sys.stdin.readline()
def say(line):
    sys.stdout.write(line + "\\n")
    sys.stdout.flush()
def succeed():
    say('{"type": "succeeded", "result": {"snapshot_id": "s"}}')
def ready():
    say('{"type": "file_ready", "path": "YQ==", "size": 1}')
"""
READY = FileReady(b"a", 1)
DONE = Succeeded(OperationResult("s"))


class Worker:
    """Runs one script as an operation's process."""

    def __init__(self, keep_open: int) -> None:
        self.events: list[PipelineEvent] = []
        self.cancel = asyncio.Event()
        self.kill = asyncio.Event()
        self.ready = asyncio.Event()
        self.written: asyncio.Future[None] | None = None
        self.silence_seconds = process.SILENCE_SECONDS
        self._keep_open = keep_open

    def _on_event(self, event: PipelineEvent) -> asyncio.Future[None] | None:
        self.events.append(event)
        self.ready.set()
        return self.written if isinstance(event, Begun) else None

    async def run(self, script: str) -> WorkerEnd:
        program = (sys.executable, "-c", PRELUDE + script)
        started = await start_process(self._keep_open, program)
        running = started.perform("snapshot-1", REQUEST, self._on_event, self.cancel, self.kill, self.silence_seconds)
        return await asyncio.wait_for(running, 60)


@pytest_asyncio.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    yield Worker(fd)
    os.close(fd)


async def test_one_that_does_what_it_should(worker: Worker) -> None:
    end = await worker.run("ready(); succeed()")
    assert end == WorkerEnd(DONE, 0)
    assert end.cleaned_up
    assert worker.events == [READY]


async def test_the_request_comes_as_one_line_and_stdin_stays_open(worker: Worker, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"""
import select
open({str(seen)!r}, "w").write(request + str(select.select([0], [], [], 0.2)[0]) + os.getcwd())
succeed()
"""
    await worker.run(script)
    line, rest = seen.read_text().split("\n")
    assert '"type":"snapshot"' in line
    assert rest == "[]/"


async def test_what_has_begun_is_confirmed_once_that_is_written_down(worker: Worker) -> None:
    worker.written = asyncio.get_running_loop().create_future()
    script = """
import select
say('{"type": "begun", "snapshot_id": "s"}')
if not select.select([0], [], [], 0.2)[0]: ready()
if os.read(0, 10) == b"\\n": succeed()
"""
    running = asyncio.ensure_future(worker.run(script))
    while len(worker.events) < 2:
        await asyncio.wait_for(worker.ready.wait(), 60)
        worker.ready.clear()
    worker.written.set_result(None)
    assert (await running).message == DONE
    assert worker.events == [Begun("s"), READY]


async def test_garbage_is_logged_and_ignored(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    script = """
os.write(1, b"\\xff\\x00 garbage\\n[1, 2\\n{}\\n\\n")
say('{"type": "unknown"}')
say("[" * 100000)
ready()
for _ in range(100): say("more")
succeed()
ready()
"""
    end = await worker.run(script)
    assert end.message == DONE
    assert worker.events == [READY]
    assert len([record for record in caplog.records if "no message" in record.getMessage()]) == 10


async def test_a_line_that_is_too_long_is_dropped(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "MAX_MESSAGE", 1000)
    end = await worker.run("say('x' * 5_000_000); ready(); succeed()")
    assert end.message == DONE
    assert worker.events == [READY]
    assert "1 messages were longer than 1000 bytes" in caplog.text


async def test_stderr_goes_to_the_log(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await worker.run("os.write(2, b'a line\\n\\xff another'); os.write(2, b'\\n'); succeed()")
    assert [record.getMessage() for record in caplog.records] == [
        "snapshot-1: a line",
        "snapshot-1: \\xff another",
    ]


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        ("sys.exit(3)", 3, "exit status 3"),
        ("sys.exit(0)", 0, "exit status 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -11, "killed by SIGSEGV"),
        ("os.kill(os.getpid(), 40)", -40, "killed by signal 40"),
        ("ready(); raise SystemError", 1, "exit status 1"),
    ],
)
async def test_one_that_dies(worker: Worker, script: str, code: int, text: str) -> None:
    end = await worker.run(script)
    assert end == WorkerEnd(None, code)
    assert not end.cleaned_up
    assert text in end.crash().message


async def test_one_that_stops_when_it_is_told(worker: Worker) -> None:
    script = """
def stop(*_):
    say('{"type": "failed", "error": {"reason": "CANCELLED", "message": "m", "hint": "h", "retryable": false}}')
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
ready()
time.sleep(600)
"""
    running = asyncio.ensure_future(worker.run(script))
    await asyncio.wait_for(worker.ready.wait(), 60)
    worker.cancel.set()
    end = await running
    assert isinstance(end.message, Failed)
    assert end.cleaned_up


async def test_one_that_does_not_stop_is_killed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CANCEL_SECONDS", 0.2)
    running = asyncio.ensure_future(
        worker.run("signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(600)")
    )
    await asyncio.wait_for(worker.ready.wait(), 60)
    worker.cancel.set()
    assert await running == WorkerEnd(None, -9)


async def test_one_that_is_to_be_killed_is_not_asked_before(worker: Worker) -> None:
    running = asyncio.ensure_future(worker.run("signal.signal(signal.SIGTERM, succeed); ready(); time.sleep(600)"))
    await asyncio.wait_for(worker.ready.wait(), 60)
    worker.kill.set()
    assert await running == WorkerEnd(None, -9)


async def test_one_that_is_stopped_is_killed(worker: Worker) -> None:
    worker.silence_seconds = 0.5
    end = await worker.run("ready(); os.kill(os.getpid(), signal.SIGSTOP)")
    assert end == WorkerEnd(None, -9, was_silent=True)
    assert not end.cleaned_up
    assert "gave no sign of life" in end.crash().message


async def test_one_that_lives_may_take_its_time(worker: Worker) -> None:
    worker.silence_seconds = 2.0
    script = """
for _ in range(40):
    time.sleep(0.1)
    say('{"type": "alive"}')
succeed()
"""
    assert await worker.run(script) == WorkerEnd(DONE, 0)
    # They are for nobody else.
    assert worker.events == []


async def test_one_that_hangs_after_its_last_message_is_killed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "EXIT_SECONDS", 0.2)
    assert await worker.run("succeed(); time.sleep(600)") == WorkerEnd(DONE, -9)


async def test_children_do_not_outlive_it_nor_hold_up_its_end(worker: Worker, tmp_path: Path) -> None:
    # The child holds all pipes of its parent, and what is expected of the parent is known before it ends.
    script = f"""
child = subprocess.Popen(["sleep", "600"])
open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
succeed()
os._exit(0)
"""
    assert await worker.run(script) == WorkerEnd(DONE, 0)
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_running(child), "the end of the child")


async def test_one_that_closes_its_stdout(worker: Worker) -> None:
    assert await worker.run("succeed(); os.close(1); os.close(2); time.sleep(0.1)") == WorkerEnd(DONE, 0)


async def test_a_program_that_cannot_be_started(worker: Worker) -> None:
    program = ("/nonexistent/program",)
    with pytest.raises(WorkerCrashedError, match="could not be started"):
        await start_process(0, program)


GONE = Failed(describe(StorageUnavailableError("gone")), OperationResult("s"))


@pytest.mark.parametrize(
    ("end", "cancelled", "state", "reason"),
    [
        (WorkerEnd(DONE, 0), False, OperationState.SUCCEEDED, None),
        (WorkerEnd(DONE, 0), True, OperationState.SUCCEEDED, None),
        (WorkerEnd(DONE, -9), True, OperationState.SUCCEEDED, None),
        (WorkerEnd(GONE, 0), False, OperationState.FAILED, "STORAGE_UNAVAILABLE"),
        (WorkerEnd(GONE, 0), True, OperationState.CANCELLED, None),
        (WorkerEnd(None, -9), False, OperationState.FAILED, "WORKER_CRASHED"),
        (WorkerEnd(None, -9), True, OperationState.CANCELLED, None),
    ],
)
def test_how_an_operation_ends(end: WorkerEnd, cancelled: bool, state: OperationState, reason: str | None) -> None:
    completed = conclude(end, cancelled)
    assert isinstance(completed, Completed)
    assert completed.state is state
    assert (completed.error.reason if completed.error else None) == reason
    assert (completed.result is None) == (end.message is None)
