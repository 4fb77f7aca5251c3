"""Requests that bring their own credentials: an agent that was restarted goes on with them once they are repeated."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from blake3 import blake3
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.config.model import Credentials
from agent.operations.journal import FILE_NAME
from agent.operations.recovery import CONTINUATIONS
from agent.repository.model import SEGMENT_SIZE
from agent.rpc import convert
from tests.support.daemon import Daemon
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import SECONDS, connected, error_info, restore, snapshot, states, watch
from tests.support.seaweed import SeaweedServer
from tests.support.trees import compare

FILES = 4
LARGE = 2 << 20
"""Bytes of each file but one, which is one chunk."""

HUGE = "a-huge-one.bin"
"""A file of two chunks."""

Request = pb.SnapshotRequest | pb.RestoreRequest


@pytest.fixture
def agent(stopped_daemon: Daemon) -> Daemon:
    """An agent without keys."""
    stopped_daemon.environ |= {
        "GPUSNAP_TRANSFER__CONNECTIONS": "4",
        "GPUSNAP_TRANSFER__ENGINE": "stream",
        "GPUSNAP_TRANSFER__WORKERS": "1",
        "GPUSNAP_SCAN__LARGE_FILE_SIZE": "1MiB",
        "GPUSNAP_AGENT__DRAIN_SECONDS": "0",
    }
    stopped_daemon.start()
    return stopped_daemon


@pytest.fixture
def storage(seaweed: SeaweedServer, bucket: str, proxy: Proxy) -> pb.Storage:
    """The store with keys for it, through the proxy."""
    message = convert.storage_message(seaweed.storage_config(bucket))
    message.endpoint = proxy.endpoint
    return with_keys(message, seaweed)


@pytest.fixture
def models(agent: Daemon) -> Path:
    folder = agent.workspace_root / "models"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"model-{number}.bin").write_bytes(os.urandom(LARGE))
    (folder / HUGE).write_bytes(os.urandom(SEGMENT_SIZE + LARGE))
    return folder


def chunks_of(models: Path) -> tuple[set[str], set[str]]:
    """Returns the ids of the chunks that are to be confirmed before the agent is killed, and those of the others."""
    first, second = (models / HUGE).read_bytes()[:SEGMENT_SIZE], (models / HUGE).read_bytes()[SEGMENT_SIZE:]
    others = [blake3((models / f"model-{number}.bin").read_bytes()).hexdigest() for number in range(FILES)]
    return {blake3(first).hexdigest(), *others[1:]}, {blake3(second).hexdigest(), others[0]}


@pytest.fixture
def saving(models: Path, storage: pb.Storage) -> pb.SnapshotRequest:
    return pb.SnapshotRequest(request_id="save", workspace=str(models), storage=storage)


@pytest.fixture
def bringing(agent: Daemon, storage: pb.Storage) -> pb.RestoreRequest:
    target = agent.workspace_root / "target"
    return pb.RestoreRequest(request_id="bring", snapshot="latest", target=str(target), storage=storage)


@pytest.fixture(params=["snapshot", "restore"])
def request_(request: pytest.FixtureRequest, saving: pb.SnapshotRequest, bringing: pb.RestoreRequest) -> Request:
    return saving if request.param == "snapshot" else bringing


def with_keys(storage: pb.Storage, seaweed: SeaweedServer) -> pb.Storage:
    """Returns the same with other keys, as short-lived ones are."""
    keys = seaweed.new_keys()
    again = pb.Storage()
    again.CopyFrom(storage)
    again.credentials.access_key_id, again.credentials.secret_access_key = keys.access_key_id, keys.secret_access_key
    return again


def run(agent: Daemon, request: Request) -> list[pb.Event]:
    with connected(agent.address) as stub:
        return snapshot(stub, request) if isinstance(request, pb.SnapshotRequest) else restore(stub, request)


def events_of(agent: Daemon, request: Request) -> Iterator[pb.Event]:
    with connected(agent.address) as stub:
        if isinstance(request, pb.SnapshotRequest):
            yield from (response.event for response in stub.Snapshot(request, timeout=SECONDS))
        else:
            yield from (response.event for response in stub.Restore(request, timeout=SECONDS))


def interrupted(
    agent: Daemon, proxy: Proxy, models: Path, request: Request, number: int = signal.SIGKILL
) -> list[pb.Event]:
    """Starts an operation, ends its agent when half of the chunks are confirmed, and starts another agent.

    Returns its events; the last one is how it ended.
    """
    confirmed, held = chunks_of(models)
    # What waits there never goes on: the store does not get it from an agent that has ended.
    proxy.script = lambda seen: Fault(is_held=True) if any(chunk in seen.path for chunk in held) else None
    events: list[pb.Event] = []
    for event in events_of(agent, request):
        events.append(event)
        if set(moved(events)) == confirmed:
            break
    assert agent.stop(number) in (0, -number)
    proxy.script = lambda seen: None
    agent.start()
    with connected(agent.address) as stub:
        [end] = watch(stub, events[0].operation, events[-1].sequence)
    assert end.completed.state == pb.OPERATION_STATE_FAILED
    assert (end.completed.error.reason, end.completed.error.retryable) == ("CREDENTIALS_NEEDED", True)
    assert "repeat the request with its credentials" in end.completed.error.hint
    assert repr(request.request_id) in end.completed.error.hint or not request.request_id
    return [*events, end]


def moved(events: list[pb.Event]) -> list[str]:
    """Returns the large chunks that went over the link."""
    finished = [event.chunk_finished for event in events if event.HasField("chunk_finished")]
    return [chunk.chunk_id for chunk in finished if chunk.raw_bytes >= LARGE and not chunk.reused]


def goes_on(before: list[pb.Event], after: list[pb.Event], models: Path) -> None:
    """Checks that an operation went on under its name, and moved no chunk again."""
    assert {event.operation for event in after} == {before[0].operation}
    numbers = [event.sequence for event in before + after]
    assert numbers == sorted(set(numbers))
    assert states(after) == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert [event.warning.reason for event in after if event.HasField("warning")] == ["OPERATION_CONTINUED"]
    confirmed, left = chunks_of(models)
    assert set(moved(before)) == confirmed
    assert sorted(moved(after)) == sorted(left)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_same_request_goes_on(
    agent: Daemon,
    proxy: Proxy,
    seaweed: SeaweedServer,
    models: Path,
    request_: Request,
    saving: pb.SnapshotRequest,
    number: int,
) -> None:
    if request_ is not saving:
        assert states(run(agent, saving))[-1] == "SUCCEEDED"
    before = interrupted(agent, proxy, models, request_, number)
    former = Credentials(request_.storage.credentials.access_key_id, "")
    request_.storage.CopyFrom(with_keys(request_.storage, seaweed))
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
        assert compare(os.fsencode(models), os.fsencode(agent.workspace_root / "target")) == []


def test_what_it_takes_to_go_on(agent: Daemon, proxy: Proxy, models: Path, saving: pb.SnapshotRequest) -> None:
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
        stream = stub.Snapshot(pb.SnapshotRequest(workspace=str(models), storage=saving.storage), timeout=SECONDS)
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
    agent: Daemon, proxy: Proxy, models: Path, saving: pb.SnapshotRequest, bringing: pb.RestoreRequest
) -> None:
    assert states(run(agent, saving))[-1] == "SUCCEEDED"
    before = interrupted(agent, proxy, models, bringing)
    other = pb.RestoreRequest()
    other.CopyFrom(bringing)
    other.request_id, other.if_not_empty = "another", pb.IF_NOT_EMPTY_OVERWRITE
    after = run(agent, other)
    assert states(after)[-1] == "SUCCEEDED"
    confirmed, left = chunks_of(models)
    assert set(moved(before)) == confirmed
    assert sorted(moved(after)) == sorted(left)
    # Its target is the other one's by now, and it was to find it empty.
    end = run(agent, bringing)[-1].completed
    assert (end.state, end.error.reason) == (pb.OPERATION_STATE_FAILED, "TARGET_NOT_EMPTY")
    assert compare(os.fsencode(models), os.fsencode(agent.workspace_root / "target")) == []


def test_what_nobody_goes_on_with_is_removed(
    agent: Daemon, proxy: Proxy, models: Path, saving: pb.SnapshotRequest, bringing: pb.RestoreRequest
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
        assert path.read_bytes() == (models / path.name).read_bytes()
