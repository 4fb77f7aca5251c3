"""Telling the service manager, over a real notify socket."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator

import pytest

from agent.daemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    folder = tempfile.mkdtemp(prefix="gpusnap-")
    name = f"{folder}/notify" if request.param == "path" else f"@gpusnap-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name[1:] if name.startswith("@") else name)
        server.settimeout(10)
        yield server, name
    shutil.rmtree(folder)


def test_every_message(manager: tuple[socket.socket, str]) -> None:
    server, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("running snapshot-1")
    notifier.alive()
    notifier.stopping()
    received = [server.recv(1000) for _ in range(4)]
    assert received == [b"READY=1", b"STATUS=running snapshot-1", b"WATCHDOG=1", b"STOPPING=1"]


def test_without_a_service_manager_nothing_happens() -> None:
    Notifier({}).ready()


def test_a_service_manager_that_is_gone_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": "/nonexistent/notify"}).ready()
    assert "could not be told READY=1" in caplog.text


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "garbage"}, 0.0),
    ],
)
def test_the_watchdog(environ: dict[str, str], seconds: float) -> None:
    assert Notifier(environ).watchdog_seconds == seconds
