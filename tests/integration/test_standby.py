"""The process that an agent keeps ready for the next operation."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.operations.standby import DELAY_SECONDS
from agent.pipeline.process_name import ProcessName
from tests.support.daemon import Daemon, descendants
from tests.support.processes import is_running, wait_until
from tests.support.rpc import connected, restore, snapshot
from tests.support.trees import File, Seeded, build, compare

READY = 3
"""The process of an operation and two workers."""


def named(daemon: Daemon, name: ProcessName) -> set[int]:
    return {pid for pid in descendants(daemon.pid) if _name(pid) == name.value}


def _name(pid: int) -> str:
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


@pytest.fixture
def filled(daemon: Daemon) -> Daemon:
    """An agent with a workspace that is large enough for workers."""
    files = [File(b"%d/%d" % (number % 7, number), Seeded(1 << 20, seed=number)) for number in range(80)]
    build(os.fsencode(daemon.workspace_root / "w"), files)
    return daemon


def test_operations_use_what_waits(filled: Daemon) -> None:
    waited = until_ready(filled)
    seen: set[int] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.005):
            for name in (ProcessName.OPERATION, ProcessName.LOOKOUT, ProcessName.PACK):
                seen.update(named(filled, name))

    looking = threading.Thread(target=look)
    looking.start()
    save(filled)
    is_over.set()
    looking.join()
    assert waited <= seen, "one process became the operation's, one its lookout, and one packed"
    assert not any(map(is_running, waited)), "nobody waits for a second operation"
    assert until_ready(filled).isdisjoint(waited)
    bring_back(filled, "t")


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
