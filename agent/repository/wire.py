"""Bounds what a protobuf message may become before it is parsed: two bytes on the wire can take hundreds in memory."""

from __future__ import annotations

from collections.abc import Iterator

from agent.errors import DataLossError

MAX_INNER_FIELDS = 1 << 20
"""Fields of a message's larger items, all together: 200 MB of memory; a file has 65,536 extents at most."""

_LARGE = 1 << 10
"""Items of fewer bytes are not looked into: there are few enough of them."""

HARMLESS_BYTES = 512 << 10
"""Messages of fewer bytes are not counted: at worst they take 50 MB. Usual sections have about 250,000 bytes."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


def check_field_count(raw: bytes, most: int) -> None:
    """Makes sure that a large message has at most ``most`` fields, and its items no more than ``MAX_INNER_FIELDS``.

    What is no message at all is left to the parser.

    Raises:
        DataLossError: it has more.
    """
    if len(raw) <= HARMLESS_BYTES:
        return
    inner = 0
    for count, (start, end) in enumerate(_fields(raw, 0, len(raw)), 1):
        if count > most:
            raise DataLossError(f"the manifest is damaged: a section has more than {most} items")
        if end - start <= _LARGE:
            continue
        for _ in _fields(raw, start, end):
            inner += 1
            if inner > MAX_INNER_FIELDS:
                raise DataLossError(f"the manifest is damaged: its items have more than {MAX_INNER_FIELDS} fields")


def _fields(raw: bytes, position: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields where the content of each field begins and ends, up to where the bytes are no message."""
    while position < end:
        tag, position = _varint(raw, position, end)
        kind = tag & 7
        if kind == _BYTES:
            size, position = _varint(raw, position, end)
        elif kind == _VARINT:
            size = _varint(raw, position, end)[1] - position
        else:
            size = _FIXED_SIZES.get(kind, 0)
        if position + size > end:
            return
        yield position, position + size
        position += size


def _varint(raw: bytes, position: int, end: int) -> tuple[int, int]:
    """Returns a number and where it ends; it ends behind ``end`` if it is none."""
    number = shift = 0
    while position < end and shift < 70:
        byte = raw[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    return 0, end + 1
