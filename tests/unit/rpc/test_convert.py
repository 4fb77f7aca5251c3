"""Between the agent's values and messages: every enum both ways, every event."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent import events
from agent.config.model import Credentials, Provider, StorageConfig
from agent.errors import DamagedChunk, InvalidRequestError, describe
from agent.errors import DataLossError as DataLoss
from agent.operations.order import RestoreOrder, SnapshotOrder
from agent.operations.record import LoggedEvent
from agent.repository.model import Entry, EntryType
from agent.restore.request import IfNotEmpty
from agent.rpc import convert, convert_engines, orders

TABLES: list[tuple[Mapping[Any, int], type[enum.Enum], Any, str]] = [
    (convert.PROVIDERS, Provider, pb.Provider, "PROVIDER_"),
    (orders.IF_NOT_EMPTY, IfNotEmpty, pb.IfNotEmpty, "IF_NOT_EMPTY_"),
    (convert.KINDS, events.OperationKind, pb.OperationKind, "OPERATION_KIND_"),
    (convert.STATES, events.OperationState, pb.OperationState, "OPERATION_STATE_"),
    (convert.STAGES, events.Stage, pb.Stage, "STAGE_"),
    (convert.CAUSES, events.Cause, pb.Cause, "CAUSE_"),
    (convert_engines.DIRECTIONS, events.Direction, pb.Direction, "DIRECTION_"),
    (convert.CHUNK_KINDS, events.ChunkKind, pb.ChunkKind, "CHUNK_KIND_"),
    (convert.ENTRY_TYPES, EntryType, pb.EntryType, "ENTRY_TYPE_"),
]


@pytest.mark.parametrize(("table", "values", "messages", "prefix"), TABLES, ids=lambda value: str(value)[:20])
def test_every_enum_both_ways(table: Mapping[Any, int], values: type[enum.Enum], messages: Any, prefix: str) -> None:
    by_name = dict(messages.items())
    assert {f"{prefix}{value.name}": table[value] for value in values} == {
        name: number for name, number in by_name.items() if number != 0
    }
    unset = next(iter(values))
    for value in values:
        assert orders.from_enum(table, table[value], unset, "field") is value
    assert orders.from_enum(table, 0, unset, "field") is unset
    with pytest.raises(InvalidRequestError, match="field has the unknown value 99"):
        orders.from_enum(table, 99, unset, "field")


TOTALS = events.ScanTotals(9, 2, 1, events.ClassTotals(3, 100), events.ClassTotals(4, 50), True)
STAGE = events.StageProgress(events.Stage.WRITE, 1, 2, 3, 4, 5.0, 6.0, 7)
RESULT = events.OperationResult(
    "s", TOTALS, 1, 2, 3, 4, 5.0, 6, "s5cmd", "why", (STAGE,), (events.Occupation(events.Cause.STORE, 1.5),)
)
DAMAGE = describe(DataLoss("1 chunk", damaged=(DamagedChunk("00", "bad", (b"\xff",)),)))


@pytest.mark.parametrize(
    ("happened", "kind"),
    [
        (events.StateChanged(events.OperationState.RUNNING), "state_changed"),
        (TOTALS, "scan_totals"),
        (events.ChunkFinished("00", events.ChunkKind.SEGMENT, 5, 4, 0.5, 2, "s5cmd", True), "chunk_finished"),
        (events.Progress((STAGE,), 1.5), "progress"),
        (events.FileReady(b"\xff\n", 7), "file_ready"),
        (events.WarningRaised("R", "m \udcff", (b"\xff",), 3), "warning"),
        (events.Completed(events.OperationState.SUCCEEDED, None, RESULT), "completed"),
        (events.Completed(events.OperationState.FAILED, DAMAGE), "completed"),
    ],
)
def test_every_event_is_sent_with_all_its_fields(happened: events.OperationEvent, kind: str) -> None:
    message = convert.event("snapshot-1", LoggedEvent(7, 1_500_000_000_000_000_001, happened))
    assert (message.operation, message.sequence) == ("snapshot-1", 7)
    assert (message.time.seconds, message.time.nanos) == (1_500_000_000, 1)
    assert message.WhichOneof("kind") == kind
    sent = getattr(message, kind)
    # Every field of these values is set, so every field of the message must be.
    optional = {"completed": {"error", "result"}}.get(kind, set())
    missing = {field.name for field in sent.DESCRIPTOR.fields} - {field.name for field, _ in sent.ListFields()}
    assert missing <= optional
    pb.Event.FromString(message.SerializeToString())


def test_a_failure_brings_its_code_and_damage() -> None:
    error = convert.completed(events.Completed(events.OperationState.FAILED, DAMAGE)).error
    assert (error.code, error.reason) == (15, "DATA_LOSS")
    assert error.damaged[0] == pb.DamagedChunk(chunk_id="00", problem="bad", paths=[b"\xff"])


def test_progress_without_an_estimate_has_none() -> None:
    assert not convert.progress(events.Progress(())).HasField("eta_seconds")


def test_an_entry_before_1970() -> None:
    entry = Entry(b"p", EntryType.FILE, 0o644, 1, 2, mtime_ns=-1)
    assert convert.entry(entry).modify_time.ToNanoseconds() == -1


CONFIGURED = StorageConfig(provider=Provider.R2, bucket="own")


def test_orders() -> None:
    keys = pb.Credentials(access_key_id="a", secret_access_key="b", session_token="c")
    storage = pb.Storage(bucket="b", prefix="p", region="r", credentials=keys)
    wanted = StorageConfig(Provider.R2, "b", "p", "", "r", credentials=Credentials("a", "b", "c"))
    assert orders.snapshot_order(
        pb.SnapshotRequest(
            request_id="i",
            workspace="/w",
            exclude=["e"],
            include=["n"],
            exclude_caches=True,
            one_file_system=True,
            storage=storage,
            full=True,
        ),
        CONFIGURED,
    ) == SnapshotOrder("i", "/w", ("e",), ("n",), True, True, wanted, True)
    assert orders.restore_order(
        pb.RestoreRequest(snapshot="s", target="/t", if_not_empty=pb.IF_NOT_EMPTY_MIRROR, paths=[b"\xff"]),
        CONFIGURED,
    ) == RestoreOrder("", "s", "/t", IfNotEmpty.MIRROR, (b"\xff",), None)


def test_a_storage_is_shown_without_credentials() -> None:
    shown = convert.storage_message(StorageConfig(bucket="b", credentials=Credentials("id", "secret")))
    assert shown == pb.Storage(provider=pb.PROVIDER_S3, bucket="b")
