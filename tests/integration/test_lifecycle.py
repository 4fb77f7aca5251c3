"""The agent's life as a real process: how it starts, refuses to start, recovers and ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent.operations.journal import FILE_NAME
from tests.support.daemon import Daemon, working
from tests.support.processes import is_running, wait_until
from tests.support.rpc import SECONDS, connected, error_info, snapshot, states, watch


@pytest.fixture
def second_daemon(daemon_folder: Path) -> Iterator[Daemon]:
    """Another agent with a folder of its own."""
    daemon = Daemon(daemon_folder / "2")
    yield daemon
    daemon.close()


def refusal(daemon: Daemon, status: int = 2) -> str:
    """Launches an agent that must not start and returns the one line in which it says why."""
    daemon.launch()
    assert daemon.wait() == status
    complaints = [line for line in daemon.log.splitlines() if line.startswith("gpusnap-agent: ")]
    assert len(complaints) == 1, daemon.log
    assert "Traceback" not in daemon.log
    return complaints[0]


def waiting(daemon: Daemon, storage: pb.Storage) -> pb.SnapshotRequest:
    return pb.SnapshotRequest(request_id="waiting", workspace=str(daemon.workspace_root), storage=storage)


def test_a_state_folder_in_use(daemon: Daemon, second_daemon: Daemon) -> None:
    second_daemon.environ["GPUSNAP_AGENT__STATE_DIR"] = str(daemon.state_dir)
    assert "in use by another agent" in refusal(second_daemon)


def test_a_socket_in_use(daemon: Daemon, second_daemon: Daemon) -> None:
    second_daemon.environ["GPUSNAP_AGENT__LISTEN"] = daemon.address
    assert "is in use" in refusal(second_daemon)
    with connected(daemon.address) as stub:
        assert stub.GetAgentInfo(pb.GetAgentInfoRequest(), timeout=SECONDS).version


def test_a_port_in_use(daemon: Daemon, second_daemon: Daemon) -> None:
    second_daemon.environ["GPUSNAP_AGENT__LISTEN"] = daemon.tcp_address
    assert f"{daemon.tcp_address} is in use" in refusal(second_daemon)


def test_a_metrics_port_in_use(daemon: Daemon, second_daemon: Daemon) -> None:
    second_daemon.environ["GPUSNAP_AGENT__METRICS_LISTEN"] = daemon.tcp_address
    assert "[agent] metrics_listen" in refusal(second_daemon)


@pytest.mark.parametrize("address", ["0.0.0.0:7447", "[::]:7447", "192.0.2.1:7447", "example.com:7447"])
def test_beyond_loopback(stopped_daemon: Daemon, address: str) -> None:
    stopped_daemon.environ["GPUSNAP_AGENT__LISTEN"] = address
    complaint = refusal(stopped_daemon)
    assert address in complaint
    assert "TLS" in complaint


def test_a_state_folder_that_cannot_be_made(stopped_daemon: Daemon) -> None:
    stopped_daemon.environ["GPUSNAP_AGENT__STATE_DIR"] = "/proc/gpusnap"
    assert "state_dir /proc/gpusnap" in refusal(stopped_daemon)


def test_a_damaged_journal(stopped_daemon: Daemon) -> None:
    stopped_daemon.state_dir.mkdir()
    (stopped_daemon.state_dir / FILE_NAME).write_bytes(b"garbage" * 1000)
    assert "is damaged" in refusal(stopped_daemon, status=1)


def test_sigterm_drains(stopped_daemon: Daemon, silent_store: pb.Storage) -> None:
    daemon = stopped_daemon
    daemon.environ["GPUSNAP_AGENT__DRAIN_SECONDS"] = "600"
    daemon.start()
    with connected(daemon.address) as stub, grpc.insecure_channel(daemon.address) as channel:
        stream = stub.Snapshot(waiting(daemon, silent_store), timeout=SECONDS)
        events = [next(stream).event]
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        os.kill(daemon.pid, signal.SIGTERM)
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        # Nothing new is started, but everything else goes on, for as long as the operation may.
        with pytest.raises(grpc.RpcError) as raised:
            snapshot(stub, pb.SnapshotRequest(workspace=str(daemon.workspace_root)))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert error_info(raised.value).reason == "SHUTTING_DOWN"
        running = stub.ListOperations(pb.ListOperationsRequest(), timeout=SECONDS).operations
        assert [one.name for one in running] == [events[0].operation]
        # A second signal ends the patience; whoever has the credentials can have it continued.
        os.kill(daemon.pid, signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as raised:
            events.extend(response.event for response in stream)
        assert error_info(raised.value).reason == "SHUTTING_DOWN"
        assert states(events) == ["PENDING", "RUNNING"]
    assert daemon.wait() == 0
    assert not working(daemon.pid)
    assert not list(daemon.staging_dir.iterdir())
    assert not (daemon.folder / "agent.sock").exists()


def test_a_question_to_a_silent_store_does_not_hold_up_the_end(daemon: Daemon, silent_store: pb.Storage) -> None:
    with connected(daemon.address) as stub:
        asked = stub.ListSnapshots.future(pb.ListSnapshotsRequest(storage=silent_store))
        # The question before the second one has reached the agent, so the first one has, too.
        assert stub.GetAgentInfo(pb.GetAgentInfoRequest(), timeout=SECONDS).version
        assert daemon.stop() == 0
        assert asked.exception() is not None


def test_operations_are_remembered_over_a_restart(daemon: Daemon, workspace: Path) -> None:
    with connected(daemon.address) as stub:
        events = snapshot(stub, pb.SnapshotRequest(request_id="one", workspace=str(workspace)))
    assert daemon.stop() == 0
    daemon.start()
    with connected(daemon.address) as stub:
        name = events[0].operation
        kept = [event for event in events if not (event.HasField("progress") or event.HasField("chunk_finished"))]
        assert watch(stub, name) == kept
        assert watch(stub, name, kept[-1].sequence) == []
        again = snapshot(stub, pb.SnapshotRequest(request_id="one", workspace=str(workspace)))
        assert again == kept
        [operation] = stub.ListOperations(pb.ListOperationsRequest(), timeout=SECONDS).operations
        assert (operation.name, operation.state) == (name, pb.OPERATION_STATE_SUCCEEDED)


def test_an_agent_that_was_killed(daemon: Daemon, silent_store: pb.Storage) -> None:
    with connected(daemon.address) as stub:
        stream = stub.Snapshot(waiting(daemon, silent_store), timeout=SECONDS)
        seen = [next(stream).event, next(stream).event]
        name = seen[0].operation
        wait_until(lambda: working(daemon.pid), "the operation's process")
        [worker] = working(daemon.pid)
        (daemon.staging_dir / name / "leftover").write_text("x")
        daemon.stop(signal.SIGKILL)
    # The new agent waits for the process of the former one, which dies with that.
    daemon.start()
    assert not is_running(worker)
    assert not list(daemon.staging_dir.iterdir())
    with connected(daemon.address) as stub:
        # The agent has no credentials to go on with.
        [last] = watch(stub, name, seen[-1].sequence)
        assert last.completed.state == pb.OPERATION_STATE_FAILED
        assert last.completed.error.reason == "CREDENTIALS_NEEDED"
        assert "it keeps no credentials" in last.completed.error.message
        assert "repeat the request with its credentials" in last.completed.error.hint
        operation = stub.GetOperation(pb.GetOperationRequest(name=name), timeout=SECONDS).operation
        assert operation.state == pb.OPERATION_STATE_FAILED
        # The workspace is free again.
        made = snapshot(stub, pb.SnapshotRequest(workspace=str(daemon.workspace_root)))
        assert states(made)[-1] == "SUCCEEDED"


def test_what_the_service_manager_is_told(stopped_daemon: Daemon, silent_store: pb.Storage) -> None:
    daemon = stopped_daemon
    path = f"{daemon.folder}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(SECONDS)
        daemon.environ |= {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000", "GPUSNAP_AGENT__DRAIN_SECONDS": "0"}
        daemon.start()
        told = [manager.recv(1000).decode()]
        assert told == ["READY=1"]

        def hear(message: str) -> None:
            while told[-1] != message:
                told.append(manager.recv(1000).decode())

        hear("STATUS=idle")
        hear("WATCHDOG=1")
        with connected(daemon.address) as stub:
            stream = stub.Snapshot(waiting(daemon, silent_store), timeout=SECONDS)
            name = next(stream).event.operation
            hear(f"STATUS=running {name}")
            os.kill(daemon.pid, signal.SIGTERM)
            hear("STOPPING=1")
        assert daemon.wait() == 0
