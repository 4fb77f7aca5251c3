"""From the requests of the service to what the agent is asked for. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.config.model import Credentials, StorageConfig
from agent.errors import InvalidRequestError
from agent.maintenance.retention import Rules
from agent.operations.order import BenchmarkOrder, PruneOrder, RestoreOrder, SnapshotOrder, VerifyOrder
from agent.restore.request import IfNotEmpty
from agent.rpc.convert import PROVIDERS

IF_NOT_EMPTY: Mapping[IfNotEmpty, pb.IfNotEmpty.ValueType] = {
    IfNotEmpty.FAIL: pb.IF_NOT_EMPTY_FAIL,
    IfNotEmpty.OVERWRITE: pb.IF_NOT_EMPTY_OVERWRITE,
    IfNotEmpty.MIRROR: pb.IF_NOT_EMPTY_MIRROR,
}

_Value = TypeVar("_Value", bound=enum.Enum)
_Number = TypeVar("_Number", bound=int)


def snapshot_order(request: pb.SnapshotRequest, configured: StorageConfig) -> SnapshotOrder:
    """Returns the order that a request stands for.

    Raises:
        InvalidRequestError: an enum has a value that this agent does not know.
    """
    return SnapshotOrder(
        request_id=request.request_id,
        workspace=request.workspace,
        exclude=tuple(request.exclude),
        include=tuple(request.include),
        exclude_caches=request.exclude_caches,
        one_file_system=request.one_file_system,
        full=request.full,
        storage=storage(request.storage, configured) if request.HasField("storage") else None,
    )


def restore_order(request: pb.RestoreRequest, configured: StorageConfig) -> RestoreOrder:
    """Returns the order that a request stands for.

    Raises:
        InvalidRequestError: an enum has a value that this agent does not know.
    """
    return RestoreOrder(
        request_id=request.request_id,
        snapshot=request.snapshot,
        target=request.target,
        if_not_empty=from_enum(IF_NOT_EMPTY, request.if_not_empty, IfNotEmpty.FAIL, "if_not_empty"),
        paths=tuple(request.paths),
        checksum=request.checksum,
        storage=storage(request.storage, configured) if request.HasField("storage") else None,
    )


def verify_order(request: pb.VerifyRequest, configured: StorageConfig) -> VerifyOrder:
    """Returns the order that a request stands for.

    Raises:
        InvalidRequestError: an enum has a value that this agent does not know.
    """
    return VerifyOrder(
        request_id=request.request_id,
        snapshot=request.snapshot,
        full=request.full,
        bytes_per_second=request.bytes_per_second,
        storage=storage(request.storage, configured) if request.HasField("storage") else None,
    )


def prune_order(request: pb.PruneRequest, configured: StorageConfig) -> PruneOrder:
    """Returns the order that a request stands for.

    Raises:
        InvalidRequestError: an enum has a value that this agent does not know.
    """
    return PruneOrder(
        request_id=request.request_id,
        rules=Rules(
            last=request.keep_last,
            hourly=request.keep_hourly,
            daily=request.keep_daily,
            weekly=request.keep_weekly,
            monthly=request.keep_monthly,
            within_seconds=request.keep_within_seconds,
        ),
        hosts=tuple(request.hosts),
        workspaces=tuple(request.workspaces),
        dry_run=request.dry_run,
        storage=storage(request.storage, configured) if request.HasField("storage") else None,
    )


def benchmark_order(request: pb.BenchmarkRequest, configured: StorageConfig) -> BenchmarkOrder:
    """Returns the order that a request stands for.

    Raises:
        InvalidRequestError: an enum has a value that this agent does not know.
    """
    return BenchmarkOrder(
        request_id=request.request_id,
        provider=request.provider,
        bytes=request.bytes,
        object_bytes=request.object_bytes,
        rounds=request.rounds,
        storage=storage(request.storage, configured) if request.HasField("storage") else None,
    )


def storage(message: pb.Storage, configured: StorageConfig) -> StorageConfig:
    """Returns the store that a request names; only an unset provider is taken from the configuration.

    Raises:
        InvalidRequestError: the provider has a value that this agent does not know.
    """
    keys = message.credentials
    return StorageConfig(
        provider=from_enum(PROVIDERS, message.provider, configured.provider, "storage.provider"),
        bucket=message.bucket,
        prefix=message.prefix,
        endpoint=message.endpoint,
        region=message.region,
        credentials=Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
        if message.HasField("credentials")
        else None,
    )


def from_enum(table: Mapping[_Value, _Number], number: int, unset: _Value, field: str) -> _Value:
    """Returns the value for an enum's number; ``unset`` for 0.

    Raises:
        InvalidRequestError: the number is not in the table.
    """
    if number == 0:
        return unset
    for value, known in table.items():
        if known == number:
            return value
    raise InvalidRequestError(f"{field} has the unknown value {number}")
