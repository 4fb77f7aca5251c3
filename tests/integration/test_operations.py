"""Operations of a real agent: they belong to it, not to their clients; they stop when told and leave nothing behind."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

from agent.operations.recovery import ATTEMPTS
from agent.rpc import convert
from tests.support.daemon import Daemon, working
from tests.support.processes import is_running, wait_until
from tests.support.rpc import SECONDS, connected, error_info, restore, snapshot, states, watch

LARGE = 24 << 20
"""Bytes of each file of a workspace that takes a moment."""

FILES = 8
"""Files of that workspace."""


def begin(stub: SnapshotAgentStub, request: pb.SnapshotRequest) -> str:
    """Starts a snapshot, leaves once its process is at work, and returns its name."""
    stream = stub.Snapshot(request, timeout=SECONDS)
    for response in stream:
        if response.event.state_changed.state == pb.OPERATION_STATE_RUNNING:
            stream.cancel()
            return response.event.operation
    raise AssertionError("it never ran")


def cancel(stub: SnapshotAgentStub, name: str) -> pb.Operation:
    return stub.CancelOperation(pb.CancelOperationRequest(name=name), timeout=SECONDS).operation


def get(stub: SnapshotAgentStub, name: str) -> pb.Operation:
    return stub.GetOperation(pb.GetOperationRequest(name=name), timeout=SECONDS).operation


def worker_of(daemon: Daemon) -> int:
    """Returns the number of the only operation's process."""
    wait_until(lambda: working(daemon.pid), "a process of an operation")
    return min(working(daemon.pid))


def nothing_left(daemon: Daemon, processes: set[int]) -> None:
    wait_until(lambda: not any(map(is_running, processes | working(daemon.pid))), "the end of all processes", 5)
    assert not list(daemon.staging_dir.iterdir())
    assert not [path for path in daemon.workspace_root.rglob("*") if path.name.startswith(".gpusnap")]


@pytest.fixture(autouse=True)
def one_thread(stopped_daemon: Daemon) -> None:
    """Makes operations work on one file after the other, so that a fast machine is not done too soon."""
    stopped_daemon.environ["GPUSNAP_TRANSFER__WORKERS"] = "1"


@pytest.fixture
def large_workspace(stopped_daemon: Daemon) -> Path:
    folder = stopped_daemon.workspace_root / "large"
    folder.mkdir()
    block = os.urandom(LARGE)
    for number in range(FILES):
        (folder / f"model-{number}.bin").write_bytes(bytes([number]) + block)
    return folder


@pytest.fixture
def waiting(workspace: Path, silent_store: pb.Storage) -> pb.SnapshotRequest:
    """A request for a snapshot that goes on until it is stopped."""
    return pb.SnapshotRequest(request_id="waiting", workspace=str(workspace), storage=silent_store)


def test_the_same_request_id_attaches(daemon: Daemon, stub: SnapshotAgentStub, waiting: pb.SnapshotRequest) -> None:
    name = begin(stub, waiting)
    again = pb.SnapshotRequest()
    again.CopyFrom(waiting)
    # Short-lived credentials differ each time.
    again.storage.credentials.secret_access_key = "another"
    assert begin(stub, again) == name
    other = pb.SnapshotRequest(request_id="waiting", workspace=waiting.workspace)
    with pytest.raises(grpc.RpcError) as raised:
        begin(stub, other)
    assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS
    info = error_info(raised.value)
    assert (info.reason, info.metadata["operation"]) == ("REQUEST_ID_REUSED", name)
    cancel(stub, name)
    assert states(watch(stub, name))[-1] == "CANCELLED"
    # And to one that has ended.
    assert states(snapshot(stub, waiting)) == ["PENDING", "RUNNING", "CANCELLING", "CANCELLED"]


def test_a_busy_workspace(daemon: Daemon, stub: SnapshotAgentStub, waiting: pb.SnapshotRequest) -> None:
    name = begin(stub, waiting)
    for path in (waiting.workspace, f"{waiting.workspace}/code", str(daemon.workspace_root)):
        with pytest.raises(grpc.RpcError) as raised:
            snapshot(stub, pb.SnapshotRequest(workspace=path))
        assert raised.value.code() is grpc.StatusCode.ABORTED
        info = error_info(raised.value)
        assert (info.reason, info.metadata["operation"]) == ("WORKSPACE_BUSY", name)
        with pytest.raises(grpc.RpcError) as raised:
            restore(stub, pb.RestoreRequest(snapshot="latest", target=path))
        assert error_info(raised.value).reason == "WORKSPACE_BUSY"
    sibling = Path(f"{waiting.workspace}-sibling")
    sibling.mkdir()
    assert states(snapshot(stub, pb.SnapshotRequest(workspace=str(sibling))))[-1] == "SUCCEEDED"
    info_now = stub.GetAgentInfo(pb.GetAgentInfoRequest(), timeout=SECONDS)
    assert list(info_now.running_operations) == [name]
    cancel(stub, name)
    assert states(watch(stub, name))[-1] == "CANCELLED"
    assert states(snapshot(stub, pb.SnapshotRequest(workspace=waiting.workspace)))[-1] == "SUCCEEDED"


def test_a_client_that_leaves_changes_nothing_and_comes_back(
    daemon: Daemon, stub: SnapshotAgentStub, large_workspace: Path
) -> None:
    stream = stub.Snapshot(pb.SnapshotRequest(workspace=str(large_workspace)), timeout=SECONDS)
    before = [response.event for response in itertools.islice(stream, 3)]
    stream.cancel()
    with connected(daemon.tcp_address) as other:
        after = watch(other, before[0].operation, before[-1].sequence)
    numbers = [event.sequence for event in before + after]
    assert numbers == sorted(set(numbers))
    assert states(before + after) == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert after[-1].completed.result.totals.models.files == FILES
    assert get(stub, before[0].operation).progress.stages
    # Whoever attaches after the end gets the same.
    assert states(watch(stub, before[0].operation)) == ["PENDING", "RUNNING", "SUCCEEDED"]


@pytest.fixture(params=["directory", "auto"])
def storage(request: pytest.FixtureRequest, stopped_daemon: Daemon) -> pb.Storage:
    """A store for each of two engines."""
    if request.param == "directory":
        return pb.Storage(provider=pb.PROVIDER_LOCAL, endpoint=str(stopped_daemon.repository))
    config = request.getfixturevalue("seaweed").storage_config(request.getfixturevalue("bucket"))
    message = convert.storage_message(config)
    keys = config.credentials
    message.credentials.access_key_id, message.credentials.secret_access_key = (
        keys.access_key_id,
        keys.secret_access_key,
    )
    return message


def test_cancelling_a_snapshot_at_work(
    daemon: Daemon, stub: SnapshotAgentStub, large_workspace: Path, storage: pb.Storage
) -> None:
    request = pb.SnapshotRequest(workspace=str(large_workspace), storage=storage)
    events = []
    processes: set[int] = set()
    for response in stub.Snapshot(request, timeout=SECONDS):
        events.append(response.event)
        if response.event.HasField("chunk_finished") and len(states(events)) == 2:
            processes = working(daemon.pid)
            answer = cancel(stub, response.event.operation)
            assert answer.state in (pb.OPERATION_STATE_CANCELLING, pb.OPERATION_STATE_CANCELLED)
    assert states(events) == ["PENDING", "RUNNING", "CANCELLING", "CANCELLED"]
    assert not events[-1].completed.HasField("error")
    assert events[-1].completed.state == pb.OPERATION_STATE_CANCELLED
    nothing_left(daemon, processes)
    assert not stub.ListSnapshots(pb.ListSnapshotsRequest(storage=storage), timeout=SECONDS).snapshots
    # Cancelling what has ended changes nothing.
    assert cancel(stub, events[0].operation).state == pb.OPERATION_STATE_CANCELLED


def test_cancelling_a_process_that_does_not_listen(
    daemon: Daemon, stub: SnapshotAgentStub, waiting: pb.SnapshotRequest
) -> None:
    name = begin(stub, waiting)
    worker = worker_of(daemon)
    os.kill(worker, signal.SIGSTOP)
    cancel(stub, name)
    assert states(watch(stub, name)) == ["PENDING", "RUNNING", "CANCELLING", "CANCELLED"]
    nothing_left(daemon, {worker})


def test_a_killed_restore_leaves_nothing_in_its_target(
    daemon: Daemon, stub: SnapshotAgentStub, large_workspace: Path, storage: pb.Storage
) -> None:
    snapshot(stub, pb.SnapshotRequest(workspace=str(large_workspace), storage=storage))
    target = daemon.workspace_root / "back"
    request = pb.RestoreRequest(snapshot="latest", target=str(target), storage=storage)
    stream = stub.Restore(request, timeout=SECONDS)
    name = next(stream).event.operation
    work = target / f".gpusnap-restore-{name}"
    wait_until(work.exists, "the restore's work folder")
    processes = working(daemon.pid)
    os.kill(worker_of(daemon), signal.SIGSTOP)
    assert work.exists()
    cancel(stub, name)
    assert states([response.event for response in stream])[-1] == "CANCELLED"
    nothing_left(daemon, processes)
    # What stands under a final name is complete.
    for path in target.glob("*.bin"):
        assert path.read_bytes() == (large_workspace / path.name).read_bytes()


def test_a_process_that_is_killed_again_and_again(
    daemon: Daemon, stub: SnapshotAgentStub, waiting: pb.SnapshotRequest
) -> None:
    name = begin(stub, waiting)
    workers: set[int] = set()
    for _ in range(ATTEMPTS):
        wait_until(lambda: working(daemon.pid) - workers, "the next process")
        [worker] = working(daemon.pid) - workers
        workers.add(worker)
        os.kill(worker, signal.SIGKILL)
    events = watch(stub, name)
    assert states(events) == ["PENDING", "RUNNING", "FAILED"]
    warnings = [event.warning for event in events if event.HasField("warning")]
    assert [warning.reason for warning in warnings] == ["OPERATION_RETRIED"] * (ATTEMPTS - 1)
    assert all("SIGKILL" in warning.message for warning in warnings)
    end = events[-1].completed
    assert (end.error.reason, end.error.retryable) == ("WORKER_CRASHED", True)
    assert "SIGKILL" in end.error.message
    nothing_left(daemon, workers)
    assert states(snapshot(stub, pb.SnapshotRequest(workspace=waiting.workspace)))[-1] == "SUCCEEDED"


def test_a_process_that_is_told_to_stop_by_a_stranger(
    daemon: Daemon, stub: SnapshotAgentStub, large_workspace: Path
) -> None:
    stream = stub.Snapshot(pb.SnapshotRequest(workspace=str(large_workspace)), timeout=SECONDS)
    warnings: list[str] = []
    told = False
    for response in stream:
        if response.event.HasField("chunk_finished") and not told:
            os.kill(worker_of(daemon), signal.SIGTERM)
            told = True
        if response.event.HasField("warning"):
            warnings.append(response.event.warning.reason)
    assert warnings == ["OPERATION_RETRIED"]
    assert response.event.completed.state == pb.OPERATION_STATE_SUCCEEDED


def test_credentials_are_nowhere_to_be_seen(
    daemon: Daemon, stub: SnapshotAgentStub, waiting: pb.SnapshotRequest
) -> None:
    secret = waiting.storage.credentials.secret_access_key.encode()
    name = begin(stub, waiting)
    worker = worker_of(daemon)
    for process in (daemon.pid, worker):
        for file in ("cmdline", "environ"):
            assert secret not in Path(f"/proc/{process}/{file}").read_bytes()
    cancel(stub, name)
    watch(stub, name)
    files = [path for path in daemon.state_dir.rglob("*") if path.is_file()]
    assert any(name.encode() in path.read_bytes() for path in files)
    for path in [*files, daemon.log_path]:
        assert secret not in path.read_bytes()


def test_a_failure_of_the_running_operation(daemon: Daemon, stub: SnapshotAgentStub, workspace: Path) -> None:
    snapshot(stub, pb.SnapshotRequest(workspace=str(workspace)))
    end = restore(stub, pb.RestoreRequest(snapshot="latest", target=str(workspace)))[-1].completed
    assert end.state == pb.OPERATION_STATE_FAILED
    assert (end.error.reason, end.error.retryable) == ("TARGET_NOT_EMPTY", False)
    assert end.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert end.error.hint
    assert "Traceback" not in daemon.log


def test_the_answer_to_a_health_check_comes_while_a_store_is_silent(
    daemon: Daemon, stub: SnapshotAgentStub, silent_store: pb.Storage
) -> None:
    asked = [stub.ListSnapshots.future(pb.ListSnapshotsRequest(storage=silent_store)) for _ in range(8)]
    assert stub.GetAgentInfo(pb.GetAgentInfoRequest(), timeout=SECONDS).version
    assert not any(call.done() for call in asked)
    for call in asked:
        call.cancel()


def test_more_questions_than_the_agent_holds(daemon: Daemon, stub: SnapshotAgentStub, silent_store: pb.Storage) -> None:
    asked = [stub.ListSnapshots.future(pb.ListSnapshotsRequest(storage=silent_store)) for _ in range(80)]
    wait_until(lambda: any(call.done() for call in asked), "a refusal")
    refused = next(call for call in asked if call.done()).exception()
    assert isinstance(refused, grpc.RpcError)
    assert error_info(refused).reason == "TOO_MANY_REQUESTS"
    for call in asked:
        call.cancel()
    assert stub.GetAgentInfo(pb.GetAgentInfoRequest(), timeout=SECONDS).version
