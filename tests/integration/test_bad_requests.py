"""Each request that must be refused: its status, its reason, its hint, and nothing started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

from tests.support.daemon import Daemon
from tests.support.rpc import SECONDS, connected, error_info

Code = grpc.StatusCode
Call = Callable[[SnapshotAgentStub, Daemon], Any]


def start(**fields: Any) -> Call:
    return lambda stub, daemon: next(stub.Snapshot(pb.SnapshotRequest(**fields), timeout=SECONDS))


def start_in_root(path: str, **fields: Any) -> Call:
    return lambda stub, daemon: next(
        stub.Snapshot(pb.SnapshotRequest(workspace=f"{daemon.workspace_root}/{path}", **fields), timeout=SECONDS)
    )


def bring_back(path: str, **fields: Any) -> Call:
    return lambda stub, daemon: next(
        stub.Restore(pb.RestoreRequest(target=f"{daemon.workspace_root}/{path}", **fields), timeout=SECONDS)
    )


def call(method: str, request: Any) -> Call:
    return lambda stub, daemon: getattr(stub, method)(request, timeout=SECONDS)


REFUSED: list[tuple[Call, grpc.StatusCode, str]] = [
    (start(), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (start(workspace="relative"), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (start(workspace="/etc"), Code.PERMISSION_DENIED, "PATH_NOT_ALLOWED"),
    (start_in_root("../.."), Code.PERMISSION_DENIED, "PATH_NOT_ALLOWED"),
    (start_in_root("missing"), Code.NOT_FOUND, "PATH_NOT_FOUND"),
    (start_in_root("file"), Code.FAILED_PRECONDITION, "NOT_A_DIRECTORY"),
    (start_in_root("", exclude=["a\nb"]), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (start_in_root("", request_id="x" * 129), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (
        start_in_root("", storage=pb.Storage(provider=cast("pb.Provider.ValueType", 99))),
        Code.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    ),
    (start_in_root("", storage=pb.Storage(provider=pb.PROVIDER_S3)), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (bring_back("new"), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (bring_back("new", snapshot="no/id"), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (bring_back("new", snapshot="latest", if_not_empty=9), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (bring_back("new", snapshot="latest", paths=[b"../x"]), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (bring_back("../../x", snapshot="latest"), Code.PERMISSION_DENIED, "PATH_NOT_ALLOWED"),
    (bring_back("file/x", snapshot="latest"), Code.FAILED_PRECONDITION, "NOT_A_DIRECTORY"),
    (call("GetOperation", pb.GetOperationRequest(name="x")), Code.NOT_FOUND, "OPERATION_NOT_FOUND"),
    (call("CancelOperation", pb.CancelOperationRequest(name="x")), Code.NOT_FOUND, "OPERATION_NOT_FOUND"),
    (
        lambda stub, daemon: next(stub.WatchOperation(pb.WatchOperationRequest(name="x"), timeout=SECONDS)),
        Code.NOT_FOUND,
        "OPERATION_NOT_FOUND",
    ),
    (call("ListOperations", pb.ListOperationsRequest(page_token="x")), Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
    (call("ListOperations", pb.ListOperationsRequest(page_size=-1)), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (call("ListSnapshots", pb.ListSnapshotsRequest(page_token="x")), Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"),
    (call("GetSnapshot", pb.GetSnapshotRequest()), Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (call("GetSnapshot", pb.GetSnapshotRequest(snapshot="2026")), Code.NOT_FOUND, "SNAPSHOT_NOT_FOUND"),
    (call("GetSnapshot", pb.GetSnapshotRequest(snapshot="latest")), Code.NOT_FOUND, "SNAPSHOT_NOT_FOUND"),
    (
        call("ListFiles", pb.ListFilesRequest(snapshot="latest", path=b"/x")),
        Code.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    ),
    (call("DeleteSnapshot", pb.DeleteSnapshotRequest(snapshot="2026")), Code.NOT_FOUND, "SNAPSHOT_NOT_FOUND"),
]


def refused(stub: SnapshotAgentStub, daemon: Daemon, make_call: Call, code: grpc.StatusCode, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        make_call(stub, daemon)
    error = raised.value
    info = error_info(error)
    assert (error.code(), info.reason) == (code, reason), error
    details = error.details()
    assert details
    assert "\n" not in details
    assert info.metadata["hint"]
    assert info.metadata["retryable"] == "false"


def test_every_refusal(daemon: Daemon, stub: SnapshotAgentStub) -> None:
    (daemon.workspace_root / "file").write_text("x")
    for make_call, code, reason in REFUSED:
        refused(stub, daemon, make_call, code, reason)
    assert not stub.ListOperations(pb.ListOperationsRequest(), timeout=SECONDS).operations
    assert not list(daemon.staging_dir.iterdir())
    assert "Traceback" not in daemon.log


def test_bytes_that_are_no_message(daemon: Daemon) -> None:
    for method in ("Snapshot", "GetAgentInfo"):
        with grpc.insecure_channel(daemon.address) as channel:
            call: Any = channel.unary_stream(f"/gpusnap.v1.SnapshotAgent/{method}")
            with pytest.raises(grpc.RpcError) as raised:
                next(iter(call(b"\0", timeout=SECONDS)))
        assert raised.value.code() is Code.INVALID_ARGUMENT
        assert error_info(raised.value).reason == "INVALID_REQUEST"


def test_no_storage(stopped_daemon: Daemon) -> None:
    del stopped_daemon.environ["STORAGE_PROVIDER"], stopped_daemon.environ["STORAGE_ENDPOINT"]
    stopped_daemon.start()
    with connected(stopped_daemon.address) as stub:
        for make_call in (start_in_root(""), call("ListSnapshots", pb.ListSnapshotsRequest())):
            refused(stub, stopped_daemon, make_call, Code.FAILED_PRECONDITION, "STORAGE_NOT_CONFIGURED")
        assert not stub.GetAgentInfo(pb.GetAgentInfoRequest(), timeout=SECONDS).HasField("storage")


@pytest.mark.parametrize("policy", ["forbid", "require"])
def test_storage_that_the_configuration_does_not_permit(stopped_daemon: Daemon, policy: str) -> None:
    stopped_daemon.environ["GPUSNAP_STORAGE__PER_REQUEST"] = policy
    stopped_daemon.start()
    storage = pb.Storage(provider=pb.PROVIDER_LOCAL, endpoint=str(stopped_daemon.repository))
    fields: dict[str, Any] = {"storage": storage} if policy == "forbid" else {}
    with connected(stopped_daemon.address) as stub:
        for make_call in (
            start_in_root("", **fields),
            call("ListSnapshots", pb.ListSnapshotsRequest(**fields)),
            call("CheckStorage", pb.CheckStorageRequest(**fields)),
        ):
            refused(stub, stopped_daemon, make_call, Code.FAILED_PRECONDITION, "STORAGE_NOT_PERMITTED")
