"""The process that an agent keeps ready for the next operation."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.operations.standby import DELAY_SECONDS
from agent.pipeline.process_name import ProcessName
from tests.support.daemon import Daemon, descendants
from tests.support.half_done import Request, events_of, storage_behind
from tests.support.processes import is_running, wait_until
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import connected, restore, snapshot
from tests.support.seaweed import SeaweedServer
from tests.support.trees import File, Seeded, build, compare

READY = 3
"""The process of an operation and two workers."""


def named(daemon: Daemon, role: ProcessName) -> set[int]:
    return {pid for pid in descendants(daemon.pid) if _name(pid) == role.value}


def _name(pid: int) -> str:
    """Returns what a process calls itself: one that waits does so once it has loaded all."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def until_ready(daemon: Daemon) -> set[int]:
    wait_until(lambda: len(named(daemon, ProcessName.STANDBY)) == READY, "a process to be ready")
    return named(daemon, ProcessName.STANDBY)


def save(daemon: Daemon) -> None:
    with connected(daemon.address) as stub:
        events = snapshot(stub, pb.SnapshotRequest(workspace=str(daemon.workspace_root / "w")))
    assert events[-1].completed.state == pb.OPERATION_STATE_SUCCEEDED, events[-1]


def bring_back(daemon: Daemon, target: str) -> None:
    with connected(daemon.address) as stub:
        events = restore(stub, pb.RestoreRequest(snapshot="latest", target=str(daemon.workspace_root / target)))
    assert events[-1].completed.state == pb.OPERATION_STATE_SUCCEEDED, events[-1]
    assert "OPERATION_RETRIED" not in [event.warning.reason for event in events]
    root = os.fsencode(daemon.workspace_root)
    assert compare(root + b"/w", root + b"/" + target.encode()) == []


def fill(daemon: Daemon) -> None:
    """Makes a workspace that is large enough for workers."""
    files = [File(b"%d/%d" % (number % 7, number), Seeded(1 << 20, seed=number)) for number in range(80)]
    build(os.fsencode(daemon.workspace_root / "w"), files)


@pytest.fixture
def filled(daemon: Daemon) -> Daemon:
    """An agent with such a workspace."""
    fill(daemon)
    return daemon


def test_operations_use_what_waits(stopped_daemon: Daemon, seaweed: SeaweedServer, bucket: str, proxy: Proxy) -> None:
    agent = stopped_daemon
    agent.environ["GPUSNAP_TRANSFER__WORKERS"] = "2"
    storage = storage_behind(proxy, seaweed, bucket)
    agent.start()
    fill(agent)
    waited = until_ready(agent)
    proxy.script = lambda seen: Fault(is_held=True) if "/chunks/" in seen.path else None
    operation = {pid for pid in waited if descendants(pid)}
    with running(agent, pb.SnapshotRequest(workspace=str(agent.workspace_root / "w"), storage=storage), proxy):
        wait_until(lambda: named(agent, ProcessName.PACK) & waited, "one that waited to pack")
        assert named(agent, ProcessName.OPERATION) == operation
        assert named(agent, ProcessName.LOOKOUT) <= waited
    assert not any(map(is_running, waited)), "nobody waits for a second operation"
    waited = until_ready(agent)
    operation = {pid for pid in waited if descendants(pid)}
    request = pb.RestoreRequest(snapshot="latest", target=str(agent.workspace_root / "t"), storage=storage)
    with running(agent, request, proxy):
        wait_until(lambda: named(agent, ProcessName.WRITE) == waited - operation, "those that waited to write")
        assert named(agent, ProcessName.OPERATION) == operation
    assert until_ready(agent).isdisjoint(waited)


@contextlib.contextmanager
def running(agent: Daemon, request: Request, proxy: Proxy) -> Iterator[None]:
    """Has an operation held up at its chunks for a block, and brings it to its end after it."""
    proxy.released.clear()
    events = events_of(agent, request)
    next(events)
    try:
        yield
    finally:
        proxy.released.set()
    *_, last = events
    assert last.completed.state == pb.OPERATION_STATE_SUCCEEDED, last


@pytest.mark.parametrize("victims", [1, 2, 3])
def test_what_waits_may_be_killed(filled: Daemon, victims: int) -> None:
    save(filled)
    until_ready(filled)
    # The workers first, as their end is nothing that anybody hears of.
    for pid in sorted(named(filled, ProcessName.STANDBY), reverse=True)[:victims]:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not is_running(pid), "it to die")  # type: ignore[misc]
    bring_back(filled, "t")
    until_ready(filled)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_waits_ends_with_the_agent(daemon: Daemon, number: signal.Signals) -> None:
    waiting = until_ready(daemon)
    daemon.stop(number)
    wait_until(lambda: not any(map(is_running, waiting)), "all to end")
    daemon.start()
    assert until_ready(daemon).isdisjoint(waiting)


def test_nothing_waits_where_nothing_shall(stopped_daemon: Daemon) -> None:
    stopped_daemon.environ["GPUSNAP_AGENT__STANDBY"] = "false"
    stopped_daemon.start()
    (stopped_daemon.workspace_root / "w").mkdir()
    save(stopped_daemon)
    # What would begin to wait does so half a second later.
    time.sleep(2 * DELAY_SECONDS)
    assert descendants(stopped_daemon.pid) == set()
    bring_back(stopped_daemon, "t")


def test_one_worker_has_nobody_waiting(stopped_daemon: Daemon) -> None:
    stopped_daemon.environ["GPUSNAP_TRANSFER__WORKERS"] = "1"
    stopped_daemon.start()
    wait_until(lambda: named(stopped_daemon, ProcessName.STANDBY), "the process of the operation")
    (pid,) = named(stopped_daemon, ProcessName.STANDBY)
    assert descendants(pid) == set()
