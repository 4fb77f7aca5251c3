"""Deleting and pruning through an agent: what the command says, and what is left in the repository."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

from agent.maintenance.retention import Rules
from agent.operations.order import PruneOrder
from tests.support.daemon import Daemon, orders
from tests.support.gpusnap import Gpusnap
from tests.support.rpc import SECONDS, error_info


def test_what_the_command_does_and_says(daemon: Daemon, workspace: Path) -> None:
    gpusnap = Gpusnap(daemon.address)
    ids = []
    for number in range(3):
        (workspace / "code" / "main.py").write_text(f"print({number})\n")
        ids.append(gpusnap.run("snapshot", str(workspace)).stdout.strip())
    stored = {path for path in (daemon.repository / "chunks").rglob("*") if path.is_file()}

    done = gpusnap.run("delete", ids[0], "--yes")
    assert (done.code, done.stdout.strip()) == (0, ids[0])
    assert (daemon.repository / "trash" / ids[0] / "manifest").is_file()

    done = gpusnap.run("prune", "--keep-last", "1", "--dry-run")
    assert done.code == 0, done.stderr
    verdicts = {line.split()[0]: line.rpartition("  ")[2] for line in done.stdout.splitlines()[1:]}
    assert verdicts == {ids[1]: "would go", ids[2]: "stays: last"}
    assert "1 snapshot would be deleted, 1 stay" in done.stderr
    assert gpusnap.run("snapshots", "--json").stdout.count('"record":"snapshot"') == 2

    done = gpusnap.run("prune", "--keep-last", "1", "--workspace", str(workspace), "--json")
    assert done.code == 0, done.stderr
    (completed,) = [record for record in done.records if record["record"] == "completed"]
    report = completed["result"]["prune"]
    assert (report["kept"], report["removed"], report["grace_seconds"]) == (1, 1, 86400)
    assert report["held"]["chunks"] == 2
    assert (report["minimum_storage_days"], report["early"]["chunks"]) == (0, 0)
    assert report["freed"]["chunks"] == report["condemned"]["chunks"] == 0
    assert (daemon.repository / "trash" / ids[1] / "manifest").is_file()

    # A day must pass before anything is condemned.
    assert {path for path in (daemon.repository / "chunks").rglob("*") if path.is_file()} == stored
    name = gpusnap.run("prune", "--detach").stdout.strip()
    assert name.startswith("prune-")
    assert gpusnap.run("watch", name).code == 0
    assert gpusnap.run("restore", ids[2], str(daemon.workspace_root / "back")).code == 0


def test_each_rule_arrives_as_it_was_given(daemon: Daemon, workspace: Path) -> None:
    gpusnap = Gpusnap(daemon.address)
    assert gpusnap.run("snapshot", str(workspace)).code == 0
    words = ["--keep-last=1", "--keep-hourly=2", "--keep-daily=3", "--keep-weekly=4", "--keep-monthly=5"]
    done = gpusnap.run("prune", *words, "--keep-within=6h", "--host=a", f"--workspace={workspace}", "--dry-run")
    assert done.code == 0, done.stderr
    (order,) = orders(daemon, PruneOrder)
    assert order.rules == Rules(last=1, hourly=2, daily=3, weekly=4, monthly=5, within_seconds=6 * 3600)
    assert (order.hosts, order.workspaces, order.dry_run) == (("a",), (str(workspace),), True)

    # And so it arrives in the operation's process.
    done = gpusnap.run("prune", "--keep-weekly=1", "--json", "--dry-run")
    (completed,) = [record for record in done.records if record["record"] == "completed"]
    assert [item["reasons"] for item in completed["result"]["prune"]["verdicts"]] == [["weekly"]]


@pytest.mark.parametrize(
    "words",
    [
        ("--host", "a"),
        ("--workspace", "/w", "--dry-run"),
        ("--keep-last", "0"),
        ("--keep-last", "1", "--workspace", "relative"),
        ("--keep-within", "14"),
        ("--keep-within", "0d"),
        ("latest",),
    ],
)
def test_a_wrong_command_line(words: tuple[str, ...]) -> None:
    done = Gpusnap("127.0.0.1:1").run("prune", *words)
    assert done.code == 2
    assert len(done.stderr.splitlines()) == 1


def test_groups_without_a_rule_are_refused(stub: SnapshotAgentStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Prune(pb.PruneRequest(hosts=["a"]), timeout=SECONDS))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).reason == "INVALID_REQUEST"


def test_an_unusable_store_is_told_by_the_operation(stub: SnapshotAgentStub, daemon: Daemon) -> None:
    storage = pb.Storage(provider=pb.PROVIDER_LOCAL, endpoint=f"{daemon.workspace_root}/missing")
    events = [response.event for response in stub.Prune(pb.PruneRequest(storage=storage), timeout=SECONDS)]
    assert events[-1].completed.error.reason == "BUCKET_NOT_FOUND"
