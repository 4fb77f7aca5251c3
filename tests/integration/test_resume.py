"""Operations that are killed, wherever and whenever: they go on under their names, and nothing is lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

from agent.operations.recovery import CONTINUATIONS
from agent.pipeline.process_name import ProcessName
from tests.support.daemon import Daemon, role_of, working
from tests.support.processes import children_called, is_running, wait_until
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import SECONDS, connected, error_info, restore, snapshot, states, watch
from tests.support.seaweed import SeaweedServer
from tests.support.trees import compare

FILES = 6
LARGE = 2 << 20
"""Bytes of each file, which is one chunk."""

SLOW = Fault(piece_seconds=0.02)
"""A link over which such a chunk takes most of a second."""


@pytest.fixture
def agent(stopped_daemon: Daemon, seaweed: SeaweedServer, bucket: str, proxy: Proxy) -> Daemon:
    """An agent that moves one chunk after the other, so that most are still to come when the first is done."""
    stopped_daemon.environ |= {
        "STORAGE_PROVIDER": "custom",
        "STORAGE_ENDPOINT": proxy.endpoint,
        "STORAGE_BUCKET": bucket,
        "STORAGE_ACCESS_KEY_ID": seaweed.access_key,
        "STORAGE_SECRET_ACCESS_KEY": seaweed.secret_key,
        "GPUSNAP_TRANSFER__CONNECTIONS": "1",
        "GPUSNAP_TRANSFER__WORKERS": "1",
        "GPUSNAP_SCAN__LARGE_FILE_SIZE": "1MiB",
        "GPUSNAP_AGENT__DRAIN_SECONDS": "0",
    }
    stopped_daemon.start()
    return stopped_daemon


@pytest.fixture
def models(stopped_daemon: Daemon) -> Path:
    folder = stopped_daemon.workspace_root / "models"
    (folder / "small").mkdir(parents=True)
    for number in range(FILES):
        (folder / f"model-{number}.bin").write_bytes(os.urandom(LARGE))
        (folder / "small" / f"{number}.txt").write_text(f"{number}\n")
    return folder


def saving(models: Path) -> pb.SnapshotRequest:
    return pb.SnapshotRequest(request_id="save", workspace=str(models))


def bringing(target: Path) -> pb.RestoreRequest:
    return pb.RestoreRequest(request_id="bring", snapshot="latest", target=str(target))


def until_chunk(responses: Iterator[pb.SnapshotResponse] | Iterator[pb.RestoreResponse]) -> list[pb.Event]:
    """Reads events until the first large chunk is done."""
    events: list[pb.Event] = []
    for response in responses:
        events.append(response.event)
        if response.event.chunk_finished.raw_bytes >= LARGE:
            return events
    raise AssertionError(f"it ended before: {events[-1]}")


def begun(agent: Daemon, proxy: Proxy, request: pb.SnapshotRequest | pb.RestoreRequest) -> list[pb.Event]:
    """Starts an operation and returns its events up to the first large chunk."""
    proxy.default = SLOW
    with connected(agent.address) as stub:
        if isinstance(request, pb.SnapshotRequest):
            return until_chunk(iter(stub.Snapshot(request, timeout=SECONDS)))
        return until_chunk(iter(stub.Restore(request, timeout=SECONDS)))


def to_its_end(agent: Daemon, before: list[pb.Event]) -> list[pb.Event]:
    """Watches on to the end, as a client that has seen the events before."""
    with connected(agent.address) as stub:
        events = watch(stub, before[0].operation, before[-1].sequence)
    numbers = [event.sequence for event in before + events]
    assert numbers == sorted(set(numbers))
    assert {event.operation for event in before + events} == {before[0].operation}
    return events


def warnings(events: list[pb.Event]) -> list[str]:
    return [event.warning.reason for event in events if event.HasField("warning")]


def moved(events: list[pb.Event]) -> list[str]:
    """Returns the large chunks that went over the link."""
    finished = [event.chunk_finished for event in events if event.HasField("chunk_finished")]
    return [chunk.chunk_id for chunk in finished if chunk.raw_bytes >= LARGE and not chunk.reused]


def is_moved_once(before: list[pb.Event], after: list[pb.Event]) -> None:
    """What was confirmed before does not move again, but one chunk for the only worker."""
    assert moved(before)
    assert len(set(moved(before)) & set(moved(after))) <= 1
    assert len(moved(before) + moved(after)) <= FILES + 1


def operation_process(agent: Daemon) -> int:
    """Returns the process of the only operation once it runs its own program."""

    def found() -> list[int]:
        return [pid for pid in working(agent.pid) if role_of(pid) is ProcessName.OPERATION]

    wait_until(found, "the operation's process")
    return found()[0]


def restart(agent: Daemon, proxy: Proxy, number: int = signal.SIGKILL) -> None:
    agent.stop(number)
    proxy.default = Fault()
    agent.start()


def is_brought_back(agent: Daemon, models: Path, target: Path) -> None:
    assert compare(os.fsencode(models), os.fsencode(target)) == []
    assert not list(agent.staging_dir.iterdir())
    assert not any(map(is_running, working(agent.pid)))


def test_the_agent_is_killed(agent: Daemon, proxy: Proxy, models: Path) -> None:
    target = agent.workspace_root / "target"
    request: pb.SnapshotRequest | pb.RestoreRequest
    for request in (saving(models), bringing(target)):
        before = begun(agent, proxy, request)
        restart(agent, proxy)
        after = to_its_end(agent, before)
        assert states(after) == ["RUNNING", "SUCCEEDED"]
        assert warnings(after) == ["OPERATION_CONTINUED"]
        # The same request still stands for the same operation.
        with connected(agent.address) as stub:
            again = snapshot(stub, request) if isinstance(request, pb.SnapshotRequest) else restore(stub, request)
        assert again[-1] == after[-1]
        is_moved_once(before, after)
    is_brought_back(agent, models, target)


def test_the_operation_s_process_is_killed(agent: Daemon, proxy: Proxy, models: Path) -> None:
    target = agent.workspace_root / "target"
    request: pb.SnapshotRequest | pb.RestoreRequest
    for request in (saving(models), bringing(target)):
        before = begun(agent, proxy, request)
        os.kill(operation_process(agent), signal.SIGKILL)
        proxy.default = Fault()
        after = to_its_end(agent, before)
        assert states(after) == ["SUCCEEDED"]
        assert warnings(after) == ["OPERATION_RETRIED"]
        is_moved_once(before, after)
    is_brought_back(agent, models, target)


def test_a_graceful_stop_leaves_operations_to_the_next_agent(agent: Daemon, proxy: Proxy, models: Path) -> None:
    target = agent.workspace_root / "target"
    proxy.default = SLOW
    with connected(agent.address) as stub:
        stream = stub.Snapshot(saving(models), timeout=SECONDS)
        before = until_chunk(iter(stream))
        os.kill(agent.pid, signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as raised:
            before += [response.event for response in stream]
        assert error_info(raised.value).reason == "SHUTTING_DOWN"
    assert agent.wait() == 0
    assert states(before) == ["PENDING", "RUNNING"]
    assert not list(agent.staging_dir.iterdir())
    agent.start()
    proxy.default = Fault()
    assert states(to_its_end(agent, before)) == ["RUNNING", "SUCCEEDED"]
    before = begun(agent, proxy, bringing(target))
    restart(agent, proxy, signal.SIGTERM)
    assert states(to_its_end(agent, before)) == ["RUNNING", "SUCCEEDED"]
    is_brought_back(agent, models, target)


def test_a_continued_restore_brings_the_snapshot_that_it_began_with(agent: Daemon, proxy: Proxy, models: Path) -> None:
    target = agent.workspace_root / "target"
    with connected(agent.address) as stub:
        first = snapshot(stub, saving(models))[-1].completed.result.snapshot_id
        before = begun(agent, proxy, bringing(target))
        worker = operation_process(agent)
        os.kill(worker, signal.SIGSTOP)
        proxy.default = Fault()
        other = agent.workspace_root / "other"
        other.mkdir()
        assert states(snapshot(stub, pb.SnapshotRequest(workspace=str(other))))[-1] == "SUCCEEDED"
        os.kill(worker, signal.SIGKILL)
    after = to_its_end(agent, before)
    assert after[-1].completed.result.snapshot_id == first
    is_brought_back(agent, models, target)


def test_a_restore_that_never_began_does_not_own_its_target(
    agent: Daemon, models: Path, seaweed: SeaweedServer
) -> None:
    target = agent.workspace_root / "target"
    with connected(agent.address) as stub:
        snapshot(stub, saving(models))
        target.mkdir()
        (target / "model-0.bin").write_text("somebody's own")
        seaweed.kill()
        stream = stub.Restore(bringing(target), timeout=SECONDS)
        before = [next(stream).event, next(stream).event]
        agent.stop(signal.SIGKILL)
    seaweed.start()
    agent.start()
    end = to_its_end(agent, before)[-1].completed
    assert (end.state, end.error.reason) == (pb.OPERATION_STATE_FAILED, "TARGET_NOT_EMPTY")
    assert (target / "model-0.bin").read_text() == "somebody's own"


@pytest.fixture
def endless(agent: Daemon, silent_store: pb.Storage) -> Iterator[list[pb.Event]]:
    """A snapshot that goes on until it is stopped, and whose agent has all that it takes to continue it."""
    assert agent.stop() == 0
    agent.environ["STORAGE_ENDPOINT"] = silent_store.endpoint
    agent.start()
    with connected(agent.address) as stub:
        stream = stub.Snapshot(saving(agent.workspace_root), timeout=SECONDS)
        yield [next(stream).event, next(stream).event]


def test_an_agent_that_dies_of_it_again_gives_up(agent: Daemon, proxy: Proxy, endless: list[pb.Event]) -> None:
    before = endless
    for _ in range(CONTINUATIONS):
        restart(agent, proxy)
        with connected(agent.address) as stub:
            request = pb.WatchOperationRequest(name=before[0].operation, after_sequence=before[-1].sequence)
            stream = stub.WatchOperation(request, timeout=SECONDS)
            before += [next(stream).event, next(stream).event]
    assert warnings(before) == ["OPERATION_CONTINUED"] * CONTINUATIONS
    restart(agent, proxy)
    [last] = to_its_end(agent, before)
    assert (last.completed.state, last.completed.error.reason) == (pb.OPERATION_STATE_FAILED, "WORKER_CRASHED")
    assert "continuations" in last.completed.error.message


def test_what_was_being_cancelled_is_not_continued(agent: Daemon, endless: list[pb.Event]) -> None:
    worker = operation_process(agent)
    # One that does not listen, so that the cancellation is still going on.
    os.kill(worker, signal.SIGSTOP)
    name = endless[0].operation
    with connected(agent.address) as stub:
        stub.CancelOperation(pb.CancelOperationRequest(name=name), timeout=SECONDS)
    os.kill(agent.pid, signal.SIGKILL)
    # The kernel itself ends what is stopped and has nobody left, sometimes at once.
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    agent.wait()
    agent.start()
    [last] = to_its_end(agent, endless)
    assert last.completed.state == pb.OPERATION_STATE_CANCELLED


def test_an_agent_that_is_not_to_continue(agent: Daemon, proxy: Proxy, endless: list[pb.Event]) -> None:
    agent.environ["GPUSNAP_AGENT__RESUME_ON_START"] = "false"
    restart(agent, proxy)
    [last] = to_its_end(agent, endless)
    assert (last.completed.state, last.completed.error.reason) == (pb.OPERATION_STATE_FAILED, "WORKER_CRASHED")
    assert last.completed.error.hint == "repeat the request"


def test_kills_at_random_moments(agent: Daemon, proxy: Proxy, models: Path) -> None:
    seed = int(os.environ.get("GPUSNAP_TEST_SEED", random.randrange(1 << 32)))
    print(f"GPUSNAP_TEST_SEED={seed}")
    chance = random.Random(seed)
    target = agent.workspace_root / "target"
    request: pb.SnapshotRequest | pb.RestoreRequest
    for request in (saving(models), bringing(target)):
        victims = ["agent", "operation", "s5cmd"]
        chance.shuffle(victims)
        proxy.default = SLOW
        events: list[pb.Event] = []
        for victim in victims:
            with connected(agent.address) as stub:
                events += some_events(stub, request, events, chance.randrange(2, 9))
            kill(victim, agent)
        proxy.default = Fault()
        events += to_its_end(agent, events)
        assert states(events)[-1] == "SUCCEEDED", events[-1]
    is_brought_back(agent, models, target)


def some_events(
    stub: SnapshotAgentStub, request: pb.SnapshotRequest | pb.RestoreRequest, seen: list[pb.Event], count: int
) -> list[pb.Event]:
    """Starts an operation, or attaches to it again, and returns so many events, or those that come up to its end."""
    if seen:
        watching = pb.WatchOperationRequest(name=seen[0].operation, after_sequence=seen[-1].sequence)
        return [one.event for one in itertools.islice(stub.WatchOperation(watching, timeout=SECONDS), count)]
    if isinstance(request, pb.SnapshotRequest):
        return [one.event for one in itertools.islice(stub.Snapshot(request, timeout=SECONDS), count)]
    return [one.event for one in itertools.islice(stub.Restore(request, timeout=SECONDS), count)]


def kill(victim: str, agent: Daemon) -> None:
    """Kills the agent (and starts another one), the operation's process, or an s5cmd of it, if it is there."""
    if victim == "agent":
        agent.stop(signal.SIGKILL)
        agent.start()
        return
    processes = working(agent.pid)
    if victim == "s5cmd":
        processes = set().union(*(children_called("s5cmd", process) for process in processes))
    if processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(min(processes), signal.SIGKILL)
