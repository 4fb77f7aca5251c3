"""The store dies in the middle of an operation of a real agent: a clear end in time, and a repeat succeeds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

from tests.support.daemon import Daemon, working
from tests.support.processes import is_running, wait_until
from tests.support.rpc import SECONDS, connected, restore, snapshot, states
from tests.support.seaweed import SeaweedServer
from tests.support.trees import compare

FILES = 8
LARGE = 24 << 20
"""Bytes of each file, which is one chunk."""


@pytest.fixture(params=["s5cmd", "stream"])
def agent(request: pytest.FixtureRequest, stopped_daemon: Daemon, seaweed: SeaweedServer, bucket: str) -> Daemon:
    """An agent that moves one chunk after the other, so that most are still to come when the first is done."""
    stopped_daemon.environ |= {
        "STORAGE_PROVIDER": "custom",
        "STORAGE_ENDPOINT": seaweed.endpoint,
        "STORAGE_BUCKET": bucket,
        "STORAGE_ACCESS_KEY_ID": seaweed.access_key,
        "STORAGE_SECRET_ACCESS_KEY": seaweed.secret_key,
        "GPUSNAP_TRANSFER__ENGINE": request.param,
        "GPUSNAP_TRANSFER__CONNECTIONS": "1",
        "GPUSNAP_TRANSFER__RETRY_SECONDS": "3",
    }
    stopped_daemon.start()
    return stopped_daemon


@pytest.fixture
def models(agent: Daemon) -> Path:
    folder = agent.workspace_root / "models"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"model-{number}.bin").write_bytes(os.urandom(LARGE))
    return folder


def kill_at_first_chunk(
    responses: Iterator[pb.SnapshotResponse] | Iterator[pb.RestoreResponse], server: SeaweedServer
) -> list[pb.Event]:
    """Follows an operation to its end and kills the store when the first large chunk is done."""
    events: list[pb.Event] = []
    for response in responses:
        events.append(response.event)
        if server.running and response.event.chunk_finished.raw_bytes >= LARGE:
            server.kill()
    return events


def is_clear(events: list[pb.Event], agent: Daemon) -> None:
    assert states(events)[-1] == "FAILED"
    error = events[-1].completed.error
    assert error.reason == "STORAGE_UNAVAILABLE"
    assert error.retryable
    assert error.hint
    wait_until(lambda: not any(map(is_running, working(agent.pid))), "the end of all processes", 10)
    assert not list(agent.staging_dir.iterdir())
    assert not [path for path in agent.workspace_root.rglob("*") if path.name.startswith(".gpusnap")]


def snapshots(stub: SnapshotAgentStub) -> list[str]:
    found = stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=SECONDS).snapshots
    return [summary.id for summary in found]


def test_both_ways(agent: Daemon, models: Path, seaweed: SeaweedServer) -> None:
    target = agent.workspace_root / "target"
    with connected(agent.address) as stub:
        saving = pb.SnapshotRequest(workspace=str(models))
        is_clear(kill_at_first_chunk(iter(stub.Snapshot(saving, timeout=SECONDS)), seaweed), agent)
        seaweed.start()
        assert snapshots(stub) == []
        assert states(snapshot(stub, saving))[-1] == "SUCCEEDED"

        bringing = pb.RestoreRequest(snapshot=snapshots(stub)[0], target=str(target))
        is_clear(kill_at_first_chunk(iter(stub.Restore(bringing, timeout=SECONDS)), seaweed), agent)
        # What has its final name is complete.
        for path in target.iterdir():
            assert path.read_bytes() == (models / path.name).read_bytes()
        seaweed.start()
        bringing.if_not_empty = pb.IF_NOT_EMPTY_OVERWRITE
        assert states(restore(stub, bringing))[-1] == "SUCCEEDED"
    assert compare(os.fsencode(models), os.fsencode(target)) == []
