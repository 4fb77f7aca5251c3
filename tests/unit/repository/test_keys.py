"""The names of objects, and the ids of snapshots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.repository import keys

MICROSECOND = 1000


@given(
    start=st.integers(min_value=0, max_value=250_000_000_000 * 10**9),
    later=st.integers(min_value=MICROSECOND, max_value=10**12),
)
def test_later_snapshots_have_greater_ids(start: int, later: int) -> None:
    first, second = keys.new_snapshot_id(start), keys.new_snapshot_id(start + later)
    assert keys.is_snapshot_id(first)
    assert first < second


def test_the_id_tells_the_time() -> None:
    assert keys.new_snapshot_id(1_795_431_912_500_000_000).startswith("20261123T110512Z-80000")


def test_snapshots_of_one_moment_differ() -> None:
    assert len({keys.new_snapshot_id(0) for _ in range(20)}) > 1


def test_other_names_are_no_ids() -> None:
    for name in ("", "latest", "20261123T110512Z", "20261123T110512Z-ABCDEF01", "20261123T110512Z-abcdef012", "../x"):
        assert not keys.is_snapshot_id(name)


def test_keys() -> None:
    assert keys.chunk(bytes(31) + b"\xff") == "chunks/00/" + "00" * 31 + "ff"
    assert keys.manifest("S") == "snapshots/S/manifest"
    assert keys.chunk_list("S") == "snapshots/S/chunks.txt"
