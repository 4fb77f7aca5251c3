"""The client's errors are the inverse of the agent's table."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

import agent.errors
from controller_client import errors
from controller_client.model import DamagedChunk, Failure
from controller_client.status import from_rpc_error, is_lost_connection

AGENT_CLASSES = agent.errors.classes()
ADDRESS = "gpu-7:7447"


@pytest.mark.parametrize("reason", sorted(AGENT_CLASSES))
def test_every_reason_of_the_agent_has_its_class(reason: str) -> None:
    theirs, ours = AGENT_CLASSES[reason], errors.CLASSES[reason]
    assert ours.default_reason == reason
    assert ours.default_retryable == theirs.retryable
    assert ours.__name__ == theirs.__name__


def test_a_status_with_error_info_becomes_its_class() -> None:
    error = rpc_error(
        grpc.StatusCode.ABORTED,
        "workspace /workspace: busy",
        reason="WORKSPACE_BUSY",
        metadata={"hint": "wait", "retryable": "true", "operation": "snapshot-1"},
    )
    found = from_rpc_error(error, ADDRESS)
    assert type(found) is errors.WorkspaceBusyError
    assert (found.message, found.hint, found.retryable) == ("workspace /workspace: busy", "wait", True)
    assert found.metadata == {"operation": "snapshot-1"}
    assert str(found) == "workspace /workspace: busy (wait)"


def test_without_retryable_in_the_metadata_the_class_decides() -> None:
    error = rpc_error(grpc.StatusCode.UNAVAILABLE, "draining", reason="SHUTTING_DOWN")
    assert from_rpc_error(error, ADDRESS).retryable
    error = rpc_error(grpc.StatusCode.NOT_FOUND, "no such", reason="SNAPSHOT_NOT_FOUND")
    assert not from_rpc_error(error, ADDRESS).retryable


def test_a_reason_of_a_newer_agent_is_kept() -> None:
    found = from_rpc_error(rpc_error(grpc.StatusCode.INTERNAL, "odd", reason="SOMETHING_NEW"), ADDRESS)
    assert type(found) is errors.GpusnapError
    assert found.reason == "SOMETHING_NEW"


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.AgentUnreachableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.AgentUnreachableError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.NotSupportedByAgentError),
        (grpc.StatusCode.UNKNOWN, errors.GpusnapError),
    ],
)
def test_a_status_without_error_info_names_the_agent(code: grpc.StatusCode, cls: type[errors.GpusnapError]) -> None:
    found = from_rpc_error(rpc_error(code, "it\nbroke"), ADDRESS)
    assert type(found) is cls
    assert ADDRESS in found.message
    assert "\n" not in found.message


@pytest.mark.parametrize("details", [b"\xff\xff\xff", status_pb2.Status(code=5).SerializeToString()])
def test_details_that_are_no_error_info_do_no_harm(details: bytes) -> None:
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", details))
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), metadata, details="gone")
    assert type(from_rpc_error(error, ADDRESS)) is errors.AgentUnreachableError


@pytest.mark.parametrize(
    ("code", "reason", "lost"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", True),
        (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", True),
        (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE", False),
        (grpc.StatusCode.CANCELLED, "", True),
        (grpc.StatusCode.NOT_FOUND, "OPERATION_NOT_FOUND", False),
        (grpc.StatusCode.UNKNOWN, "", False),
    ],
)
def test_what_counts_as_a_lost_connection(code: grpc.StatusCode, reason: str, lost: bool) -> None:
    assert is_lost_connection(rpc_error(code, "x", reason=reason)) is lost


def test_a_failure_with_damage_keeps_its_chunks() -> None:
    damaged = (DamagedChunk("ab" * 32, "missing", (b"model.bin",)),)
    found = errors.from_failure(Failure("DATA_LOSS", "2 chunks damaged", "restore another", False, damaged))
    assert isinstance(found, errors.DataLossError)
    assert found.damaged == damaged


def rpc_error(
    code: grpc.StatusCode, message: str, *, reason: str = "", metadata: dict[str, str] | None = None
) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata()
    if reason:
        info = AnyMessage()
        info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="gpusnap", metadata=metadata or {}))
        status = status_pb2.Status(code=code.value[0], message=message, details=[info])
        trailing.add("grpc-status-details-bin", status.SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=message)
