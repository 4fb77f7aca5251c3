"""Every message of the contract reaches the model whole."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from gpusnap.v1 import snapshot_agent_pb2 as pb

from controller_client import convert, engines, model

TABLES: list[tuple[dict[int, Any], type[enum.Enum], Any]] = [
    (convert.KINDS, model.OperationKind, pb.OperationKind),
    (convert.STATES, model.OperationState, pb.OperationState),
    (convert.STAGES, model.Stage, pb.Stage),
    (convert.CAUSES, model.Cause, pb.Cause),
    (convert.CHUNK_KINDS, model.ChunkKind, pb.ChunkKind),
    (convert.ENTRY_TYPES, model.EntryType, pb.EntryType),
    (convert.PROVIDERS, model.Provider, pb.Provider),
    (convert.DIRECTIONS, engines.Direction, pb.Direction),
]


@pytest.mark.parametrize(("table", "members", "wrapper"), TABLES, ids=lambda value: getattr(value, "__name__", ""))
def test_enums_have_the_same_values_on_both_sides(
    table: dict[int, enum.Enum], members: type[enum.Enum], wrapper: Any
) -> None:
    assert set(table.values()) == set(members) - {members["UNKNOWN"]}
    assert set(table) == {number for number in wrapper.values() if number}
    for number, member in table.items():
        assert wrapper.Name(number).endswith(f"_{member.name}")


@pytest.mark.parametrize("provider", model.Provider)
def test_providers_go_there_and_back(provider: model.Provider) -> None:
    assert convert.storage(pb.Storage(provider=convert.provider_number(provider))).provider is provider


@pytest.mark.parametrize("choice", model.IfNotEmpty)
def test_choices_have_numbers(choice: model.IfNotEmpty) -> None:
    assert pb.IfNotEmpty.Name(convert.if_not_empty_number(choice)) == f"IF_NOT_EMPTY_{choice.name}"


def test_if_not_empty_knows_every_value() -> None:
    assert len(model.IfNotEmpty) == len(pb.IfNotEmpty.values()) - 1


RENAMED = {
    "time": "time_ns",
    "create_time": "create_time_ns",
    "end_time": "end_time_ns",
    "start_time": "start_time_ns",
    "commit_time": "commit_time_ns",
    "modify_time": "modify_time_ns",
}

NOT_IN_THE_MODEL = {"gpusnap.v1.Error.code", "gpusnap.v1.Storage.credentials"}

PAIRS: list[tuple[type[Message], Callable[[Any], object]]] = [
    (pb.ScanTotals, convert.scan_totals),
    (pb.Progress, convert.progress),
    (pb.Warning, convert.warning),
    (pb.Error, convert.failure),
    (pb.Result, convert.result),
    (pb.Completed, convert.completed),
    (pb.Operation, convert.operation),
    (pb.Snapshot, convert.snapshot),
    (pb.Entry, convert.entry),
    (pb.Storage, convert.storage),
    (pb.GetAgentInfoResponse, convert.agent_info),
    (pb.CheckStorageResponse, convert.storage_check),
]


@pytest.mark.parametrize(("message_type", "converter"), PAIRS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_field_arrives(message_type: type[Message], converter: Callable[[Any], object]) -> None:
    message = message_type()
    fill(message, Numbers())
    assert_equal(converter(message), message)


@pytest.mark.parametrize("kind", [field.name for field in pb.Event.DESCRIPTOR.oneofs_by_name["kind"].fields])
def test_every_kind_of_event_arrives(kind: str) -> None:
    message = pb.Event(operation="restore-1", sequence=7, time=Timestamp(seconds=3, nanos=4))
    fill(getattr(message, kind), Numbers())
    getattr(message, kind).SetInParent()

    event = convert.event(message)

    assert (event.operation, event.sequence, event.time_ns) == ("restore-1", 7, 3_000_000_004)
    assert not isinstance(event.detail, model.UnknownDetail)
    assert_equal(event.detail, getattr(message, kind))


def test_an_event_of_a_newer_agent_is_kept() -> None:
    assert convert.event(pb.Event(operation="x", sequence=1)).detail == model.UnknownDetail()


def test_an_enum_value_of_a_newer_agent_is_unknown() -> None:
    message = pb.Operation.FromString(b"\x10\x63\x18\x63")  # kind and state 99
    assert convert.operation(message).kind is model.OperationKind.UNKNOWN
    assert convert.operation(message).state is model.OperationState.UNKNOWN


def test_absent_messages_are_none() -> None:
    operation = convert.operation(pb.Operation())
    assert (operation.end_time_ns, operation.progress, operation.completed) == (None, None, None)
    assert convert.completed(pb.Completed()) == model.Completed(model.OperationState.UNKNOWN)
    assert convert.progress(pb.Progress()).eta_seconds is None
    assert convert.progress(pb.Progress(eta_seconds=0)).eta_seconds == 0
    assert convert.agent_info(pb.GetAgentInfoResponse()).storage is None
    assert convert.storage_message(None) is None


def test_storage_of_a_request_carries_credentials() -> None:
    credentials = model.Credentials("id", "secret", "token")
    storage = model.Storage(model.Provider.R2, "bucket", "prefix", "https://endpoint", "auto", credentials)
    message = convert.storage_message(storage)
    assert message is not None
    assert convert.storage(message) == dataclasses.replace(storage, credentials=None)
    sent = message.credentials
    assert (sent.access_key_id, sent.secret_access_key, sent.session_token) == ("id", "secret", "token")
    assert "secret" not in repr(storage).replace("secret_access_key", "")


class Numbers:
    """Distinct numbers, so that two fields that are mixed up show."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


def fill(message: Message, numbers: Numbers) -> None:
    """Sets every field to a value of its own."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            child = getattr(message, field.name)
            fill(child.add() if field.is_repeated else child, numbers)
            continue
        value = scalar(field, numbers)
        if field.is_repeated:
            getattr(message, field.name).extend([value])
        else:
            setattr(message, field.name, value)


def scalar(field: Any, numbers: Numbers) -> object:
    number = numbers.next()
    if field.enum_type is not None:
        return 1 + number % (len(field.enum_type.values) - 1)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    if field.type == FieldDescriptor.TYPE_STRING:
        return f"text {number}"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return f"bytes {number}".encode()
    return number


def assert_equal(value: object, message: Message) -> None:
    """Compares a converted value with its message, field by field and in both directions."""
    assert dataclasses.is_dataclass(value)
    fields = [field for field in message.DESCRIPTOR.fields if field.full_name not in NOT_IN_THE_MODEL]
    names = {RENAMED.get(field.name, field.name) for field in fields}
    assert names == {field.name for field in dataclasses.fields(value)} - {"credentials"}
    for field in fields:
        converted = getattr(value, RENAMED.get(field.name, field.name))
        sent = getattr(message, field.name)
        if field.is_repeated:
            assert len(converted) == len(sent) == 1
            converted, sent = converted[0], sent[0]
        if isinstance(sent, Timestamp):
            assert converted == sent.seconds * 1_000_000_000 + sent.nanos
        elif isinstance(sent, Message):
            assert_equal(converted, sent)
        elif isinstance(converted, enum.Enum):
            assert field.enum_type is not None
            assert field.enum_type.values_by_number[sent].name.endswith(f"_{converted.name}")
        else:
            assert converted == sent
