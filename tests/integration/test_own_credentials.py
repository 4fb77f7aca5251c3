"""Requests that bring their own credentials: an agent that was restarted goes on with them once they are repeated."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.config.model import Credentials
from agent.operations.journal import FILE_NAME
from agent.operations.recovery import CONTINUATIONS
from tests.support.daemon import Daemon
from tests.support.half_done import SETTINGS, Models, Request, events_of, moved, run, storage_behind, with_new_keys
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import SECONDS, connected, error_info, states, watch
from tests.support.seaweed import SeaweedServer
from tests.support.trees import compare


@pytest.fixture
def agent(stopped_daemon: Daemon) -> Daemon:
    """An agent without keys."""
    stopped_daemon.environ |= SETTINGS
    stopped_daemon.start()
    return stopped_daemon


@pytest.fixture
def models(agent: Daemon) -> Models:
    return Models(agent.workspace_root / "models")


@pytest.fixture
def saving(models: Models, seaweed: SeaweedServer, bucket: str, proxy: Proxy) -> pb.SnapshotRequest:
    storage = storage_behind(proxy, seaweed, bucket)
    return pb.SnapshotRequest(request_id="save", workspace=str(models.path), storage=storage)


@pytest.fixture
def bringing(agent: Daemon, saving: pb.SnapshotRequest) -> pb.RestoreRequest:
    target = agent.workspace_root / "target"
    return pb.RestoreRequest(request_id="bring", snapshot="latest", target=str(target), storage=saving.storage)


@pytest.fixture(params=["snapshot", "restore"])
def request_(request: pytest.FixtureRequest, saving: pb.SnapshotRequest, bringing: pb.RestoreRequest) -> Request:
    return saving if request.param == "snapshot" else bringing


def interrupted(
    agent: Daemon, proxy: Proxy, models: Models, request: Request, number: int = signal.SIGKILL
) -> list[pb.Event]:
    """Starts an operation, ends its agent when half of the chunks are confirmed, and starts another agent.

    Returns its events; the last one is how it ended.
    """
    events = models.half_done(agent, proxy, request)
    assert agent.stop(number) in (0, -number)
    proxy.script = lambda seen: None
    agent.start()
    with connected(agent.address) as stub:
        [end] = watch(stub, events[0].operation, events[-1].sequence)
    assert end.completed.state == pb.OPERATION_STATE_FAILED
    assert (end.completed.error.reason, end.completed.error.retryable) == ("CREDENTIALS_NEEDED", True)
    assert "repeat the request with its credentials" in end.completed.error.hint
    assert repr(request.request_id) in end.completed.error.hint
    return [*events, end]


def goes_on(before: list[pb.Event], after: list[pb.Event], models: Models) -> None:
    """Checks that an operation went on under its name, and moved no chunk again."""
    assert {event.operation for event in after} == {before[0].operation}
    numbers = [event.sequence for event in before + after]
    assert numbers == sorted(set(numbers))
    assert states(after) == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert [event.warning.reason for event in after if event.HasField("warning")] == ["OPERATION_CONTINUED"]
    assert sorted(moved(after)) == sorted(models.second)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_same_request_goes_on(
    agent: Daemon,
    proxy: Proxy,
    seaweed: SeaweedServer,
    models: Models,
    request_: Request,
    saving: pb.SnapshotRequest,
    number: int,
) -> None:
    if request_ is not saving:
        assert states(run(agent, saving))[-1] == "SUCCEEDED"
    before = interrupted(agent, proxy, models, request_, number)
    former = Credentials(request_.storage.credentials.access_key_id, "")
    request_.storage.CopyFrom(with_new_keys(request_.storage, seaweed))
    seaweed.revoke(former)
    after = run(agent, request_)
    goes_on(before, after, models)
    with connected(agent.address) as stub:
        asked = pb.ListSnapshotsRequest(storage=request_.storage)
        listed = stub.ListSnapshots(asked, timeout=SECONDS).snapshots
        assert len(listed) == 1
        # From now on it stands for the operation that has ended.
        assert run(agent, request_)[-1] == after[-1]
        operations = stub.ListOperations(pb.ListOperationsRequest(), timeout=SECONDS).operations
    assert len(operations) == (1 if request_ is saving else 2)
    if request_ is not saving:
        assert compare(os.fsencode(models.path), os.fsencode(agent.workspace_root / "target")) == []


def test_what_it_takes_to_go_on(agent: Daemon, proxy: Proxy, models: Models, saving: pb.SnapshotRequest) -> None:
    before = interrupted(agent, proxy, models, saving)
    without = pb.SnapshotRequest()
    without.CopyFrom(saving)
    without.storage.ClearField("credentials")
    # Without any, it stands for the operation as it is.
    assert run(agent, without) == before[-1:]
    other = pb.SnapshotRequest()
    other.CopyFrom(saving)
    other.full = True
    with pytest.raises(grpc.RpcError) as raised:
        run(agent, other)
    assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert error_info(raised.value).metadata["operation"] == before[0].operation
    # Somebody else is at work there.
    proxy.script = lambda seen: Fault(is_held=True)
    with connected(agent.address) as stub:
        stream = stub.Snapshot(pb.SnapshotRequest(workspace=str(models.path), storage=saving.storage), timeout=SECONDS)
        name = next(stream).event.operation
        with pytest.raises(grpc.RpcError) as raised:
            run(agent, saving)
        assert raised.value.code() is grpc.StatusCode.ABORTED
        stub.CancelOperation(pb.CancelOperationRequest(name=name), timeout=SECONDS)
        assert states([response.event for response in stream])[-1] == "CANCELLED"
    proxy.script = lambda seen: None
    goes_on(before, run(agent, saving), models)


def test_agents_that_die_of_it_give_up(agent: Daemon, silent_store: pb.Storage) -> None:
    request = pb.SnapshotRequest(request_id="again", workspace=str(agent.workspace_root), storage=silent_store)
    for number in range(CONTINUATIONS + 1):
        events = events_of(agent, request)
        seen = [next(events) for _ in range(3 if number else 2)]
        assert states(seen) == ["PENDING", "RUNNING"]
        agent.stop(signal.SIGKILL)
        agent.start()
    [end] = run(agent, request)
    assert (end.operation, end.completed.error.reason) == (seen[0].operation, "WORKER_CRASHED")
    assert "continuations" in end.completed.error.message


def test_another_restore_goes_on_with_the_same_files(
    agent: Daemon, proxy: Proxy, models: Models, saving: pb.SnapshotRequest, bringing: pb.RestoreRequest
) -> None:
    assert states(run(agent, saving))[-1] == "SUCCEEDED"
    interrupted(agent, proxy, models, bringing)
    other = pb.RestoreRequest()
    other.CopyFrom(bringing)
    other.request_id, other.if_not_empty = "another", pb.IF_NOT_EMPTY_OVERWRITE
    after = run(agent, other)
    assert states(after)[-1] == "SUCCEEDED"
    assert sorted(moved(after)) == sorted(models.second)
    # Its target is the other one's by now, and it was to find it empty.
    end = run(agent, bringing)[-1].completed
    assert (end.state, end.error.reason) == (pb.OPERATION_STATE_FAILED, "TARGET_NOT_EMPTY")
    assert compare(os.fsencode(models.path), os.fsencode(agent.workspace_root / "target")) == []


def test_what_nobody_goes_on_with_is_removed(
    agent: Daemon, proxy: Proxy, models: Models, saving: pb.SnapshotRequest, bringing: pb.RestoreRequest
) -> None:
    assert states(run(agent, saving))[-1] == "SUCCEEDED"
    before = interrupted(agent, proxy, models, bringing)
    work = Path(bringing.target, f".gpusnap-restore-{before[0].operation}")
    assert agent.stop() == 0
    assert work.exists()
    with sqlite3.connect(agent.state_dir / FILE_NAME) as journal:
        journal.execute("UPDATE operations SET end_time_ns = 1 WHERE name = ?", (before[0].operation,))
    journal.close()
    agent.start()
    wait_until(lambda: not work.exists(), "the removal of what was kept for too long")
    for path in Path(bringing.target).iterdir():
        assert path.read_bytes() == (models.path / path.name).read_bytes()
