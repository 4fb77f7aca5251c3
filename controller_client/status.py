"""From a gRPC status to a typed error."""

from __future__ import annotations

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from controller_client.errors import (
    AgentUnreachableError,
    CancelledError,
    GpusnapError,
    NotSupportedByAgentError,
    ShuttingDownError,
    from_reason,
)

_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "gpusnap"
_UNREACHABLE_HINT = "check that gpusnap-agent runs there and listens on this address"


def from_rpc_error(error: grpc.aio.AioRpcError, address: str) -> GpusnapError:
    """Returns the typed error for a failed call to the agent at ``address``."""
    info = _error_info(error)
    if info is not None:
        metadata = dict(info.metadata)
        hint = metadata.pop("hint", "")
        retryable = metadata.pop("retryable", "")
        return from_reason(
            info.reason,
            error.details() or info.reason,
            hint=hint,
            retryable=retryable == "true" if retryable else None,
            metadata=metadata,
        )
    return _without_reason(error, address)


def is_lost_connection(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection broke or the agent went away, so that attaching again may help."""
    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return False
    info = _error_info(error)
    return info is None or info.reason == ShuttingDownError.default_reason


def _without_reason(error: grpc.aio.AioRpcError, address: str) -> GpusnapError:
    code = error.code()
    details = " ".join((error.details() or code.name).split())
    if details.startswith("failed to connect"):  # then the last of gRPC's nested causes is the system's own
        details = details.rsplit(": ", 1)[-1]
    if code is grpc.StatusCode.UNAVAILABLE:
        return AgentUnreachableError(f"agent {address}: not reachable: {details}", hint=_UNREACHABLE_HINT)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return AgentUnreachableError(f"agent {address}: no answer in time", hint=_UNREACHABLE_HINT)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotSupportedByAgentError(f"agent {address}: it does not know this call", hint="update the agent")
    if code is grpc.StatusCode.CANCELLED:
        return CancelledError(f"agent {address}: the call was cancelled")
    hint = "this is a defect of gpusnap: report it with the agent's log"
    return GpusnapError(f"agent {address}: {code.name}: {details}", hint=hint)


def _error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == _DOMAIN:
                    return info
        except DecodeError:
            return None
    return None
