"""What a caller asks for, as it came: not yet checked, and without anything the agent adds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from agent import foreign
from agent.config.model import StorageConfig
from agent.errors import DataLossError, JournalError
from agent.events import OperationKind
from agent.maintenance.retention import Rules
from agent.restore.request import IfNotEmpty


class SnapshotOrder(msgspec.Struct, frozen=True, tag="snapshot"):
    """A snapshot that a caller asks for. The attributes are those of ``gpusnap.v1.SnapshotRequest``."""

    request_id: str
    workspace: str
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    storage: StorageConfig | None = None
    full: bool = False


class RestoreOrder(msgspec.Struct, frozen=True, tag="restore"):
    """A restore that a caller asks for. The attributes are those of ``gpusnap.v1.RestoreRequest``."""

    request_id: str
    snapshot: str
    target: str
    if_not_empty: IfNotEmpty = IfNotEmpty.FAIL
    paths: tuple[bytes, ...] = ()
    storage: StorageConfig | None = None
    checksum: bool = False


class VerifyOrder(msgspec.Struct, frozen=True, tag="verify"):
    """A verification that a caller asks for. The attributes are those of ``gpusnap.v1.VerifyRequest``."""

    request_id: str
    snapshot: str = ""
    full: bool = False
    bytes_per_second: int = 0
    storage: StorageConfig | None = None


class PruneOrder(msgspec.Struct, frozen=True, tag="prune"):
    """A prune that a caller asks for. The attributes are those of ``gpusnap.v1.PruneRequest``."""

    request_id: str
    rules: Rules = Rules()
    hosts: tuple[str, ...] = ()
    workspaces: tuple[str, ...] = ()
    dry_run: bool = False
    storage: StorageConfig | None = None


class BenchmarkOrder(msgspec.Struct, frozen=True, tag="benchmark"):
    """A benchmark that a caller asks for. The attributes are those of ``gpusnap.v1.BenchmarkRequest``."""

    request_id: str
    provider: str = ""
    bytes: int = 0
    object_bytes: int = 0
    rounds: int = 0
    storage: StorageConfig | None = None


Order = SnapshotOrder | RestoreOrder | VerifyOrder | PruneOrder | BenchmarkOrder
"""Whatever starts an operation."""

_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)

_KINDS: Mapping[type[Order], OperationKind] = {
    SnapshotOrder: OperationKind.SNAPSHOT,
    RestoreOrder: OperationKind.RESTORE,
    VerifyOrder: OperationKind.VERIFY,
    PruneOrder: OperationKind.PRUNE,
    BenchmarkOrder: OperationKind.BENCHMARK,
}


def kind_of(order: Order) -> OperationKind:
    """Returns what the ordered operation does."""
    return _KINDS[type(order)]


def snapshot_of(order: Order) -> str:
    """Returns the snapshot that the order names; empty if it names none."""
    return order.snapshot if isinstance(order, RestoreOrder | VerifyOrder) else ""


def without_credentials(order: Order) -> bytes:
    """Returns the order as JSON with a fixed order of keys and without credentials: fit for the journal."""
    if order.storage is not None:
        storage = msgspec.structs.replace(order.storage, credentials=None)
        order = msgspec.structs.replace(order, storage=storage)
    return msgspec.json.encode(order, order="deterministic")


def has_credentials(order: Order) -> bool:
    """Returns whether the order brings credentials, so that what ``without_credentials`` keeps is not all of it."""
    return order.storage is not None and order.storage.credentials is not None


def from_journal(request: bytes) -> Order:
    """Returns the order that ``without_credentials`` wrote.

    Raises:
        JournalError: another version of the agent wrote something else.
    """
    try:
        return foreign.decode(request, _decoder, "the journal's request")
    except DataLossError as error:
        raise JournalError(error.message, hint="repeat the request") from error


def digest(order: Order) -> str:
    """Returns what tells one order from another: SHA-256 in hex of everything but credentials and the request id.

    Short-lived credentials differ each time they are issued, so a caller that tries again has other ones.
    """
    body = without_credentials(msgspec.structs.replace(order, request_id=""))
    return hashlib.sha256(body).hexdigest()
