"""Which gRPC status each error becomes. Its inverse is in the client."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from agent import errors
from agent.errors import ErrorInfo, GpusnapError
from agent.rpc.text import shown

DOMAIN = "gpusnap"
"""The domain of every ErrorInfo."""

DETAILS_KEY = "grpc-status-details-bin"
"""The trailing metadata in which gRPC carries a google.rpc.Status."""

TEXT_BYTES = 1024
"""Bytes of each text in a status at most: clients accept no more than about 8 KiB of metadata."""

_Code = grpc.StatusCode

CODES: Mapping[type[GpusnapError], grpc.StatusCode] = {
    errors.GpusnapError: _Code.INTERNAL,
    errors.InvalidRequestError: _Code.INVALID_ARGUMENT,
    errors.ConfigError: _Code.FAILED_PRECONDITION,
    errors.PageTokenError: _Code.INVALID_ARGUMENT,
    errors.PathNotAllowedError: _Code.PERMISSION_DENIED,
    errors.PathNotFoundError: _Code.NOT_FOUND,
    errors.NotADirectoryPathError: _Code.FAILED_PRECONDITION,
    errors.TargetNotEmptyError: _Code.FAILED_PRECONDITION,
    errors.LocalPermissionError: _Code.PERMISSION_DENIED,
    errors.LocalIoError: _Code.INTERNAL,
    errors.NoSpaceError: _Code.RESOURCE_EXHAUSTED,
    errors.StagingFullError: _Code.RESOURCE_EXHAUSTED,
    errors.OutOfMemoryError: _Code.RESOURCE_EXHAUSTED,
    errors.StorageNotConfiguredError: _Code.FAILED_PRECONDITION,
    errors.StorageNotPermittedError: _Code.FAILED_PRECONDITION,
    errors.StorageAccessDeniedError: _Code.PERMISSION_DENIED,
    errors.BucketNotFoundError: _Code.NOT_FOUND,
    errors.StorageUnavailableError: _Code.UNAVAILABLE,
    errors.ObjectNotFoundError: _Code.NOT_FOUND,
    errors.EngineUnavailableError: _Code.FAILED_PRECONDITION,
    errors.RepositoryVersionError: _Code.FAILED_PRECONDITION,
    errors.SnapshotNotFoundError: _Code.NOT_FOUND,
    errors.SnapshotAmbiguousError: _Code.INVALID_ARGUMENT,
    errors.DataLossError: _Code.DATA_LOSS,
    errors.OperationNotFoundError: _Code.NOT_FOUND,
    errors.RequestIdReusedError: _Code.ALREADY_EXISTS,
    errors.WorkspaceBusyError: _Code.ABORTED,
    errors.CancelledError: _Code.CANCELLED,
    errors.WorkerCrashedError: _Code.UNAVAILABLE,
    errors.CredentialsNeededError: _Code.ABORTED,
    errors.JournalError: _Code.INTERNAL,
    errors.DeadlinePassedError: _Code.ABORTED,
    errors.DeadlinesIgnoredError: _Code.FAILED_PRECONDITION,
    errors.TooManyRequestsError: _Code.RESOURCE_EXHAUSTED,
    errors.ShuttingDownError: _Code.UNAVAILABLE,
}
"""The status code of every class of error."""

_BY_REASON = {cls.reason: code for cls, code in CODES.items()}


def code_of(reason: str) -> grpc.StatusCode:
    """Returns the status code of an error by its reason; a reason that is not in the table is a defect."""
    return _BY_REASON.get(reason, _Code.INTERNAL)


def code_number(reason: str) -> int:
    """Returns the same as the number that google.rpc.Code gives it."""
    number: int = code_of(reason).value[0]
    return number


def status_of(error: ErrorInfo) -> status_pb2.Status:
    """Returns an error as a google.rpc.Status with one ErrorInfo."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[key] = _cut(value)
    info.metadata["hint"] = _cut(error.hint)
    info.metadata["retryable"] = "true" if error.retryable else "false"
    detail = any_pb2.Any()
    detail.Pack(info)
    return status_pb2.Status(code=code_number(error.reason), message=_cut(error.message), details=[detail])


def _cut(text: str) -> str:
    return shown(text).encode()[:TEXT_BYTES].decode(errors="ignore")
