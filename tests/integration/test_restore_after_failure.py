"""Restores that fail, for want of a store or of valid keys: the next one goes on with large files they had begun."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.config.model import Credentials
from agent.operations.recovery import ATTEMPTS
from tests.support.daemon import Daemon, working
from tests.support.half_done import HUGE, SETTINGS, Models, moved, run, storage_behind, with_new_keys
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.rpc import SECONDS, connected, states, watch
from tests.support.seaweed import SeaweedServer
from tests.support.trees import compare


@pytest.fixture
def agent(stopped_daemon: Daemon) -> Daemon:
    stopped_daemon.environ |= SETTINGS
    stopped_daemon.start()
    return stopped_daemon


@pytest.fixture
def models(agent: Daemon) -> Models:
    return Models(agent.workspace_root / "models")


@pytest.fixture
def bringing(agent: Daemon, models: Models, seaweed: SeaweedServer, bucket: str, proxy: Proxy) -> pb.RestoreRequest:
    """A restore of the models, which are saved."""
    storage = storage_behind(proxy, seaweed, bucket)
    assert states(run(agent, pb.SnapshotRequest(workspace=str(models.path), storage=storage)))[-1] == "SUCCEEDED"
    target = agent.workspace_root / "target"
    return pb.RestoreRequest(
        snapshot="latest", target=str(target), storage=storage, if_not_empty=pb.IF_NOT_EMPTY_OVERWRITE
    )


def again(agent: Daemon, retry_seconds: str) -> None:
    """Starts the agent again, so patient."""
    assert agent.stop() == 0
    agent.environ["GPUSNAP_TRANSFER__RETRY_SECONDS"] = retry_seconds
    agent.start()


def left(agent: Daemon) -> list[Path]:
    return [path for path in agent.workspace_root.rglob("*") if path.name.startswith(".gpusnap")]


def end_of(agent: Daemon, events: list[pb.Event]) -> pb.Completed:
    with connected(agent.address) as stub:
        return watch(stub, events[0].operation, events[-1].sequence)[-1].completed


def goes_on(agent: Daemon, models: Models, bringing: pb.RestoreRequest) -> None:
    """Checks that a restore fetches what is not confirmed yet, and leaves nothing but the models."""
    after = run(agent, bringing)
    assert states(after)[-1] == "SUCCEEDED", after[-1]
    assert sorted(moved(after)) == sorted(models.second)
    assert compare(os.fsencode(models.path), os.fsencode(bringing.target)) == []
    assert left(agent) == []


def test_an_outage(agent: Daemon, proxy: Proxy, models: Models, bringing: pb.RestoreRequest) -> None:
    again(agent, "2")
    events = models.half_done(agent, proxy, bringing, proxy.down)
    end = end_of(agent, events)
    assert (end.state, end.error.reason) == (pb.OPERATION_STATE_FAILED, "STORAGE_UNAVAILABLE")
    proxy.script = lambda seen: None
    proxy.up()
    again(agent, "60")
    # The huge file, and where it comes from: nothing of the file that had only begun.
    [work] = Path(bringing.target).glob(".gpusnap-restore-*")
    assert len(list(work.iterdir())) == 2
    assert not (Path(bringing.target) / HUGE).exists()
    goes_on(agent, models, bringing)


def test_keys_that_are_not_valid_any_more(
    agent: Daemon, proxy: Proxy, seaweed: SeaweedServer, models: Models, bringing: pb.RestoreRequest
) -> None:
    def revoke() -> None:
        seaweed.revoke(Credentials(bringing.storage.credentials.access_key_id, ""))
        proxy.released.set()

    events = models.half_done(agent, proxy, bringing, revoke)
    end = end_of(agent, events)
    assert (end.state, end.error.reason) == (pb.OPERATION_STATE_FAILED, "STORAGE_ACCESS_DENIED")
    bringing.storage.CopyFrom(with_new_keys(bringing.storage, seaweed))
    goes_on(agent, models, bringing)


def test_a_process_that_always_dies(agent: Daemon, proxy: Proxy, models: Models, bringing: pb.RestoreRequest) -> None:
    killed: set[int] = set()

    def kill() -> None:
        wait_until(lambda: working(agent.pid) - killed, "the operation's process")
        killed.update(working(agent.pid))
        for process in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    events = models.half_done(agent, proxy, bringing, kill)
    for _ in range(ATTEMPTS - 1):
        kill()
    end = end_of(agent, events)
    assert (end.state, end.error.reason) == (pb.OPERATION_STATE_FAILED, "WORKER_CRASHED")
    proxy.script = lambda seen: None
    goes_on(agent, models, bringing)


def test_after_a_cancel_nothing_is_kept(
    agent: Daemon, proxy: Proxy, models: Models, bringing: pb.RestoreRequest
) -> None:
    events = models.half_done(agent, proxy, bringing)
    assert left(agent)
    with connected(agent.address) as stub:
        stub.CancelOperation(pb.CancelOperationRequest(name=events[0].operation), timeout=SECONDS)
    assert end_of(agent, events).state == pb.OPERATION_STATE_CANCELLED
    assert left(agent) == []
