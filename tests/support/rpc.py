"""Talking to a real agent with nothing but the generated code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2, status_pb2
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

SECONDS = 60.0
"""How long a call may take before its test fails."""


@contextmanager
def connected(address: str) -> Iterator[SnapshotAgentStub]:
    """Yields a stub over a channel of its own."""
    # Channels share connections by default, and tests close theirs.
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield SnapshotAgentStub(channel)


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """Returns the ErrorInfo that a failed call brings."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert status.code == error.code().value[0]
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert info.domain == "gpusnap"
            return info
    raise AssertionError(f"no details in {error}")


def snapshot(stub: SnapshotAgentStub, request: pb.SnapshotRequest) -> list[pb.Event]:
    """Makes a snapshot and returns its events."""
    return [response.event for response in stub.Snapshot(request, timeout=SECONDS)]


def restore(stub: SnapshotAgentStub, request: pb.RestoreRequest) -> list[pb.Event]:
    """Restores a snapshot and returns the events."""
    return [response.event for response in stub.Restore(request, timeout=SECONDS)]


def watch(stub: SnapshotAgentStub, name: str, after: int = 0) -> list[pb.Event]:
    """Watches an operation to its end and returns the events."""
    request = pb.WatchOperationRequest(name=name, after_sequence=after)
    return [response.event for response in stub.WatchOperation(request, timeout=SECONDS)]


def states(events: list[pb.Event]) -> list[str]:
    """Returns the states that the events tell of, in order."""
    found = []
    for event in events:
        if event.HasField("state_changed"):
            found.append(event.state_changed.state)
        elif event.HasField("completed"):
            found.append(event.completed.state)
    return [pb.OperationState.Name(state).removeprefix("OPERATION_STATE_") for state in found]
