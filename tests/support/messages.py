"""Draws protobuf messages with any value in any field."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

_M = TypeVar("_M", bound=Message)

_INT32 = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32)
_INT64 = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64)
_UINT32 = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32)
_UINT64 = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64)

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(["/", "..", "a\nb", "\0", "\x1b[2J", "%s", "\N{RIGHT-TO-LEFT OVERRIDE}x", "a" * 70_000, "\\", "~"]),
)
BYTES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"", b"/", b"..", b"a/../b", b"a//b", b"a\0b", b"\xff", b"a" * 256, b"a" * 70_000, b"a/" * 40_000]
    ),
)


def variations(
    valid: _M, special: Mapping[str, st.SearchStrategy[Any]] | None = None, most: int = 2
) -> st.SearchStrategy[_M]:
    """Draws messages that are like ``valid`` in all but a few fields.

    Args:
        valid: what they are like.
        special: what to draw for fields, by "Message.field".
        most: fields that differ at most.
    """
    names = [field.name for field in valid.DESCRIPTOR.fields]
    if not names:
        return st.just(valid)

    def changed(chosen: list[str]) -> st.SearchStrategy[_M]:
        return messages(type(valid), special, only=chosen).map(lambda drawn: _overridden(valid, drawn, chosen))

    return st.lists(st.sampled_from(names), max_size=most, unique=True).flatmap(changed)


def _overridden(valid: _M, drawn: _M, chosen: Sequence[str]) -> _M:
    made = type(valid)()
    made.CopyFrom(valid)
    for name in chosen:
        made.ClearField(name)
    made.MergeFrom(drawn)
    return made


def messages(
    kind: type[_M],
    special: Mapping[str, st.SearchStrategy[Any]] | None = None,
    max_items: int = 3,
    only: Collection[str] | None = None,
) -> st.SearchStrategy[_M]:
    """Draws messages of one kind; every field may be unset.

    Args:
        kind: the message's class.
        special: what to draw for fields, by "Message.field".
        max_items: items of a repeated field at most.
        only: the fields that may be set; all, if not given.
    """
    table = special or {}
    fields = {}
    for field in kind.DESCRIPTOR.fields:
        if only is not None and field.name not in only:
            continue
        own = table.get(f"{kind.DESCRIPTOR.name}.{field.name}")
        one = _value(field, table, max_items) if own is None else own
        fields[field.name] = st.lists(one, max_size=max_items) if field.is_repeated else one
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: kind(**given))


def _value(field: Any, special: Mapping[str, st.SearchStrategy[Any]], max_items: int) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = field.message_type
        assert inner is not None
        return st.deferred(lambda: messages(GetMessageClass(inner), special, max_items))
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS
    if field.type == FieldDescriptor.TYPE_BYTES:
        return BYTES
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.one_of(st.integers(0, 9), _whole(-(2**31), 2**31 - 1))
    for types, low, high in (
        (_INT32, -(2**31), 2**31 - 1),
        (_INT64, -(2**63), 2**63 - 1),
        (_UINT32, 0, 2**32 - 1),
        (_UINT64, 0, 2**64 - 1),
    ):
        if field.type in types:
            return _whole(low, high)
    return st.floats(width=32)


def _whole(low: int, high: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(max(low, -3), 300), st.sampled_from([low, high]), st.integers(low, high))
