"""The connection to a worker process. Real processes."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.pipeline.worker_process import KEEP_OPEN, WorkerDiedError, WorkerProcess
from tests.support.processes import is_running

ECHO = """
import os
from agent.pipeline.worker_process import WorkerDiedError, own_connection, received
connection = own_connection()
try:
    while True:
        message, descriptors = connection.receive()
        with received(descriptors):
            connection.send(message + b"".join(os.pread(fd, 100, 0) for fd in descriptors))
except WorkerDiedError:
    raise SystemExit(7)
"""

SLOW = """
import time
from agent.pipeline import worker_process
worker_process.BEAT_SECONDS = 0.1
connection = worker_process.beating(worker_process.own_connection())
connection.receive()
time.sleep(3)
connection.send(b"done")
connection.receive()
"""

DEAF = """
import threading
threading.Event().wait()
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    (tmp_path / "echoing.py").write_text(ECHO)
    (tmp_path / "deaf.py").write_text(DEAF)
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path


@pytest.fixture
def echo(modules: Path) -> Iterator[WorkerProcess]:
    process = WorkerProcess("echoing")
    yield process
    process.kill()


@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_messages_come_back(echo: WorkerProcess, size: int) -> None:
    message = os.urandom(size)
    for _ in range(2):
        echo.connection.send(message)
        assert echo.connection.receive() == (message, [])


def test_descriptors_go_along(echo: WorkerProcess, modules: Path) -> None:
    with (modules / "deaf.py").open("rb") as one, (modules / "echoing.py").open("rb") as two:
        echo.connection.send(b"message", [one.fileno(), two.fileno()])
    expected = b"message" + DEAF.encode()[:100] + ECHO.encode()[:100]
    assert echo.connection.receive()[0] == expected


def test_it_ends_with_its_connection(echo: WorkerProcess) -> None:
    echo.connection.send(b"message")
    echo.connection.receive()
    assert echo.end() == "exit status 7"


def test_who_waits_sees_that_it_was_killed(echo: WorkerProcess) -> None:
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(WorkerDiedError):
            echo.connection.receive()
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    echo.kill()
    thread.join(10.0)
    assert ended.is_set()
    with pytest.raises(WorkerDiedError):
        echo.connection.send(b"message" * 100_000)
    assert echo.end() == "SIGKILL"


@pytest.mark.parametrize("message", [b"message", bytes(5 << 20)])
def test_who_waits_for_one_that_is_stopped_gives_it_up(modules: Path, message: bytes) -> None:
    process = WorkerProcess("echoing", silence_seconds=2.0)
    process.connection.send(b"message")
    process.connection.receive()
    os.kill(process.pid, signal.SIGSTOP)
    given_up = threading.Event()

    def wait() -> None:
        try:
            process.connection.send(message)
            process.connection.receive()
        except WorkerDiedError:
            given_up.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(30.0)
    assert given_up.is_set()
    process.dismiss()
    assert not is_running(process.pid)


def test_one_that_takes_its_time_gives_signs_of_life(modules: Path) -> None:
    process = WorkerProcess("slow", silence_seconds=2.0)
    process.connection.send(b"message")
    assert process.connection.receive() == (b"done", [])
    process.dismiss()


def test_one_that_does_not_end_is_killed(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.pipeline.worker_process.END_SECONDS", 0.1)
    process = WorkerProcess("deaf")
    assert process.end() == "SIGKILL"


def test_it_holds_what_says_that_the_operation_lives(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_held() -> bool:
        with (modules / "deaf.py").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    with (modules / "deaf.py").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setenv(KEEP_OPEN, str(held.fileno()))
        process = WorkerProcess("deaf")
    assert is_held()
    process.kill()
    assert not is_held()


def test_it_holds_nothing_but_its_connection(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "listing.py").write_text(
        "import os\n"
        "from agent.pipeline.worker_process import own_connection\n"
        "connection = own_connection()\n"
        "connection.send(str(len(os.listdir('/proc/self/fd'))).encode())\n"
    )
    with (tmp_path / "deaf.py").open("rb") as file:
        os.set_inheritable(file.fileno(), True)
        process = WorkerProcess("listing")
        # Three standard ones, the connection, and the folder that is listed.
        assert process.connection.receive()[0] == b"5"
    assert process.end() == "exit status 0"
    assert not is_running(process.pid)
