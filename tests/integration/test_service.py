"""The service as a client sees it: a snapshot and back, questions to the repository, health, metrics."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from agent import version
from agent.storage.staging_place import staging_place
from tests.support.daemon import Daemon
from tests.support.rpc import SECONDS, error_info, restore, snapshot, states
from tests.support.scrape import scrape


def test_what_the_agent_says_about_itself(daemon: Daemon, stub: SnapshotAgentStub) -> None:
    info = stub.GetAgentInfo(pb.GetAgentInfoRequest(), timeout=SECONDS)
    assert info.version == version()
    assert info.format_version == 1
    assert info.host
    assert list(info.workspace_roots) == [str(daemon.workspace_root)]
    assert info.storage == pb.Storage(provider=pb.PROVIDER_LOCAL, endpoint=str(daemon.repository))
    assert (info.engine, info.connections) == ("directory", 64)
    assert info.engine_reason
    assert "16 files" in info.connections_reason
    assert info.workers >= 1
    assert info.workers_reason.endswith("[transfer] workers would say otherwise")
    assert info.staging.path == str(daemon.staging_dir)
    place = staging_place(str(daemon.staging_dir))
    assert (info.staging.file_system, info.staging.huge_pages) == (place.file_system, place.has_huge_pages)
    assert info.staging.description == place.text
    assert info.metrics_address in daemon.metrics_url
    assert not info.running_operations


def test_health_and_reflection(daemon: Daemon) -> None:
    with grpc.insecure_channel(daemon.tcp_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "gpusnap.v1.SnapshotAgent"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as raised:
            health.Check(health_pb2.HealthCheckRequest(service="unknown"), timeout=SECONDS)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) >= {"gpusnap.v1.SnapshotAgent", "grpc.health.v1.Health"}
        described = DescriptorPool(database).FindServiceByName("gpusnap.v1.SnapshotAgent")
        assert described.methods_by_name["Snapshot"].input_type.full_name == "gpusnap.v1.SnapshotRequest"


def test_a_snapshot_and_back(daemon: Daemon, stub: SnapshotAgentStub, workspace: Path) -> None:
    events = snapshot(stub, pb.SnapshotRequest(workspace=str(workspace)))
    assert states(events) == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    assert {event.operation for event in events} == {events[0].operation}
    result = events[-1].completed.result
    assert (result.totals.models.files, result.totals.other.files) == (1, 1)

    operation = stub.GetOperation(pb.GetOperationRequest(name=events[0].operation), timeout=SECONDS).operation
    assert operation.kind == pb.OPERATION_KIND_SNAPSHOT
    assert operation.state == pb.OPERATION_STATE_SUCCEEDED
    assert operation.path == str(workspace)
    assert operation.snapshot == result.snapshot_id
    assert operation.last_sequence == events[-1].sequence
    assert operation.completed == events[-1].completed
    assert operation.end_time.ToNanoseconds() >= operation.create_time.ToNanoseconds() > 0

    target = daemon.workspace_root / "back"
    events = restore(stub, pb.RestoreRequest(snapshot="latest", target=str(target)))
    assert states(events) == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert events[-1].completed.result.snapshot_id == result.snapshot_id
    assert (target / "model.safetensors").read_bytes() == (workspace / "model.safetensors").read_bytes()
    assert (target / "code" / "main.py").read_text() == "print('hello')\n"
    assert list(daemon.staging_dir.iterdir()) == []

    values = scrape(daemon)
    size = (workspace / "model.safetensors").stat().st_size
    assert values['gpusnap_bytes_total{class="models",operation="snapshot",stage="scan"}'] == size
    assert values['gpusnap_bytes_total{class="models",operation="restore",stage="write"}'] == size
    for kind in ("snapshot", "restore"):
        assert values[f'gpusnap_operations_total{{operation="{kind}",result="succeeded"}}'] == 1
        assert values[f'gpusnap_operation_duration_seconds_count{{operation="{kind}",result="succeeded"}}'] == 1
        assert values[f'gpusnap_operation_throughput_bytes_per_second_count{{operation="{kind}"}}'] == 1
        assert values[f'gpusnap_throughput_bytes_per_second{{operation="{kind}"}}'] == 0
        assert values[f'gpusnap_last_success_timestamp_seconds{{operation="{kind}"}}'] > 1e9
    assert values["gpusnap_operations_running"] == 0
    assert values["gpusnap_event_loop_lag_seconds"] >= 0
    assert values[f'gpusnap_build_info{{version="{version()}"}}'] == 1
    assert values["process_resident_memory_bytes"] > 1e6


def test_snapshots_and_files_page_by_page(stub: SnapshotAgentStub, workspace: Path) -> None:
    ids = []
    for number in range(3):
        (workspace / f"file-{number}").write_text("x")
        ids.append(snapshot(stub, pb.SnapshotRequest(workspace=str(workspace)))[-1].completed.result.snapshot_id)
    found: list[str] = []
    token = ""
    while True:
        page = stub.ListSnapshots(pb.ListSnapshotsRequest(page_size=2, page_token=token), timeout=SECONDS)
        found += [one.id for one in page.snapshots]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(ids, reverse=True)

    whole = stub.GetSnapshot(pb.GetSnapshotRequest(snapshot="latest"), timeout=SECONDS).snapshot
    assert whole.id == max(ids)
    assert whole.workspace == str(workspace)

    first = stub.ListFiles(pb.ListFilesRequest(snapshot="latest", page_size=3), timeout=SECONDS)
    paths = [entry.path for entry in first.entries]
    # What "latest" names changes between two pages, and the second one continues the first all the same.
    (workspace / "zzz").write_text("x")
    snapshot(stub, pb.SnapshotRequest(workspace=str(workspace)))
    token = first.next_page_token
    while token:
        request = pb.ListFilesRequest(snapshot="latest", page_size=3, page_token=token)
        page_of_files = stub.ListFiles(request, timeout=SECONDS)
        assert page_of_files.snapshot_id == whole.id
        paths += [entry.path for entry in page_of_files.entries]
        token = page_of_files.next_page_token
    assert sorted(paths) == [
        b"", b"code", b"code/main.py", b"file-0", b"file-1", b"file-2", b"link", b"model.safetensors",
    ]  # fmt: skip
    below = stub.ListFiles(pb.ListFilesRequest(snapshot=whole.id, path=b"code/"), timeout=SECONDS)
    assert [entry.path for entry in below.entries] == [b"code", b"code/main.py"]

    with pytest.raises(grpc.RpcError) as raised:
        stub.ListFiles(pb.ListFilesRequest(snapshot=whole.id, page_token=first.next_page_token), timeout=SECONDS)
    assert error_info(raised.value).reason == "PAGE_TOKEN_INVALID"


def test_deleting_a_snapshot(stub: SnapshotAgentStub, workspace: Path) -> None:
    made = snapshot(stub, pb.SnapshotRequest(workspace=str(workspace)))[-1].completed.result.snapshot_id
    with pytest.raises(grpc.RpcError) as raised:
        stub.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot="latest"), timeout=SECONDS)
    assert error_info(raised.value).reason == "INVALID_REQUEST"
    deleted = stub.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot=made[:-2]), timeout=SECONDS)
    assert deleted.snapshot_id == made
    assert not stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=SECONDS).snapshots
    with pytest.raises(grpc.RpcError) as raised:
        stub.GetSnapshot(pb.GetSnapshotRequest(snapshot=made), timeout=SECONDS)
    assert error_info(raised.value).reason == "SNAPSHOT_NOT_FOUND"


def test_checking_the_storage(daemon: Daemon, stub: SnapshotAgentStub) -> None:
    good = stub.CheckStorage(pb.CheckStorageRequest(), timeout=SECONDS)
    assert good.ok
    assert [step.name for step in good.steps] == ["bucket", "write", "read", "list", "delete"]
    missing = pb.Storage(provider=pb.PROVIDER_LOCAL, endpoint=f"{daemon.workspace_root}/missing")
    bad = stub.CheckStorage(pb.CheckStorageRequest(storage=missing), timeout=SECONDS)
    assert not bad.ok
    assert [(step.name, step.error.reason) for step in bad.steps] == [("bucket", "BUCKET_NOT_FOUND")]
    assert bad.steps[0].error.code == grpc.StatusCode.NOT_FOUND.value[0]


def test_operations_page_by_page(stub: SnapshotAgentStub, workspace: Path) -> None:
    names = [snapshot(stub, pb.SnapshotRequest(workspace=str(workspace)))[0].operation for _ in range(3)]
    first = stub.ListOperations(pb.ListOperationsRequest(page_size=2), timeout=SECONDS)
    second = stub.ListOperations(
        pb.ListOperationsRequest(page_size=2, page_token=first.next_page_token), timeout=SECONDS
    )
    assert [one.name for one in [*first.operations, *second.operations]] == names[::-1]
    assert not second.next_page_token
