"""Counting fields without parsing: exact for messages, and harmless for anything else."""

from __future__ import annotations

import pytest
from gpusnap.v1 import manifest_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import DataLossError
from agent.repository.wire import HARMLESS_BYTES, MAX_INNER_FIELDS, check_field_count


def entries(count: int, extents: int = 0) -> bytes:
    inside = [pb.Extent(offset=2**40 + number, length=1) for number in range(extents)]
    items = [pb.ManifestEntry(path=b"%d" % number, size=2**60, extents=inside) for number in range(count)]
    return pb.EntrySection(entries=items).SerializeToString()


def test_items_are_counted() -> None:
    many = entries(40_000)
    assert len(many) > HARMLESS_BYTES
    check_field_count(many, 40_000)
    with pytest.raises(DataLossError, match="more than 39999 items"):
        check_field_count(many, 39_999)


def test_what_is_inside_of_large_items_is_counted() -> None:
    check_field_count(entries(3, extents=65_536), 3)
    with pytest.raises(DataLossError, match=f"more than {MAX_INNER_FIELDS} fields"):
        check_field_count(entries(17, extents=65_536), 17)


@given(data=st.binary(max_size=300))
def test_any_bytes_are_counted(data: bytes) -> None:
    large = data * (HARMLESS_BYTES // max(len(data), 1) + 1) if len(data) > 50 else data
    check_field_count(large, len(large))
