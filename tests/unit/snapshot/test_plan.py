"""Plans keep the order, lose nothing, respect their bounds, and one change moves little."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.repository.model import MAX_CHUNK_SIZE, Entry
from agent.repository.tar import member_bound
from agent.snapshot.plan import MAX_PACK_ENTRIES, MEAN_PACK_SIZE, LargePlan, PackPlan, Planned, plan
from tests.support.forging import directory, file

LARGE = 16 << 20


def files(count: int, seed: int, largest: int = 1 << 20) -> list[Entry]:
    source = random.Random(seed)
    return [file(b"f%06d" % number, 0, source.randrange(largest)) for number in range(count)]


def entries_of(planned: Planned) -> list[Entry]:
    if isinstance(planned, PackPlan):
        return planned.entries
    return [planned.entry] if isinstance(planned, LargePlan) else list(planned.anew())


def flat(planned: list[Planned]) -> list[Entry]:
    return [entry for item in planned for entry in entries_of(item)]


def packs(entries: list[Entry]) -> list[tuple[tuple[bytes, int], ...]]:
    """Returns each pack as the paths and sizes that it holds: equal packs have equal content."""
    planned = plan(entries, LARGE)
    return [tuple((e.path, e.size) for e in item.entries) for item in planned if isinstance(item, PackPlan)]


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 1 << 20), st.integers(0, 40 << 20), st.sampled_from([LARGE - 1, LARGE, None])),
        max_size=60,
    )
)
def test_the_order_is_kept_nothing_is_lost_and_bounds_hold(sizes: list[int | None]) -> None:
    entries = [
        directory(b"%04d" % number) if size is None else file(b"%04d" % number, 0, size)
        for number, size in enumerate(sizes)
    ]
    planned = list(plan(entries, LARGE))
    assert flat(planned) == entries
    for item in planned:
        if isinstance(item, LargePlan):
            assert item.entry.data_size >= LARGE
            continue
        assert isinstance(item, PackPlan)
        assert item.entries
        assert item.bounds == [member_bound(entry) for entry in item.entries]
        assert sum(item.bounds) <= MAX_CHUNK_SIZE
        assert all(entry.data_size < LARGE for entry in item.entries)


def test_packs_of_tiny_entries_are_bounded_by_number() -> None:
    entries = [directory(b"%06d" % number) for number in range(3 * MAX_PACK_ENTRIES)]
    planned = list(plan(entries, LARGE))
    assert flat(planned) == entries
    assert all(len(item.entries) <= MAX_PACK_ENTRIES for item in planned if isinstance(item, PackPlan))


def test_packs_average_about_what_they_should() -> None:
    entries = files(20_000, seed=1, largest=200_000)
    total = sum(member_bound(entry) for entry in entries)
    average = total / len(packs(entries))
    assert MEAN_PACK_SIZE / 2 < average < MEAN_PACK_SIZE * 1.5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), place=st.integers(0, 999), size=st.integers(0, 1 << 20))
def test_one_changed_file_moves_few_packs(seed: int, place: int, size: int) -> None:
    before = files(1000, seed)
    after = [*before[:place], file(before[place].path, 0, size), *before[place + 1 :]]
    assert len(set(packs(after)) - set(packs(before))) <= 3


def test_one_added_or_removed_file_mostly_moves_one_pack() -> None:
    moved = []
    for seed in range(40):
        before = files(1000, seed)
        place = seed * 23 % 1000
        moved.append(len(set(packs(before[:place] + before[place + 1 :])) - set(packs(before))))
    assert sum(count <= 1 for count in moved) >= 30


def test_the_same_tree_gives_the_same_plan() -> None:
    assert packs(files(3000, 5)) == packs(files(3000, 5))
