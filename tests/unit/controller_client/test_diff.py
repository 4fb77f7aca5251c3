"""The diff of two listings is that of two dictionaries."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterable

from hypothesis import given
from hypothesis import strategies as st

from controller_client.diff import Attribute, Change, ChangeKind, archive_order, compare, diff
from controller_client.model import Entry, EntryType

# Bytes below and above the slash, so that whole paths sort otherwise than their components.
COMPONENTS = st.text(alphabet="a-/0b\xff".replace("/", "."), min_size=1, max_size=3).map(
    lambda text: text.encode("latin-1")
)
PATHS = st.lists(COMPONENTS, max_size=3).map(b"/".join)
ENTRIES = st.builds(
    Entry,
    path=st.just(b""),
    type=st.sampled_from((EntryType.FILE, EntryType.DIRECTORY, EntryType.SYMLINK)),
    mode=st.sampled_from((0o644, 0o755)),
    uid=st.just(0),
    gid=st.just(0),
    size=st.integers(0, 1),
    modify_time_ns=st.integers(0, 1),
)
TREES = st.dictionaries(PATHS, ENTRIES, max_size=12)


@given(TREES, TREES)
async def test_diff_equals_comparing_dictionaries(before: dict[bytes, Entry], after: dict[bytes, Entry]) -> None:
    before = {path: dataclasses.replace(entry, path=path) for path, entry in before.items()}
    after = {path: dataclasses.replace(entry, path=path) for path, entry in after.items()}
    expected: list[Change] = []
    for path in sorted({*before, *after}, key=archive_order):
        if path not in after:
            expected.append(Change(path, ChangeKind.DELETED, before[path], None))
        elif path not in before:
            expected.append(Change(path, ChangeKind.ADDED, None, after[path]))
        elif (change := compare(before[path], after[path])) is not None:
            expected.append(change)

    found = [change async for change in diff(listing(before.values()), listing(after.values()))]

    assert found == expected


@given(st.lists(PATHS))
def test_archive_order_puts_a_directory_right_before_what_is_below_it(paths: list[bytes]) -> None:
    ordered = sorted(set(paths), key=archive_order)
    for path in ordered:
        below = [number for number, other in enumerate(ordered) if other.startswith(path + b"/")]
        if below and path:
            assert below == list(range(ordered.index(path) + 1, ordered.index(path) + 1 + len(below)))


async def test_memory_is_bounded_by_one_entry_of_each_side() -> None:
    ahead = 0
    furthest = 0

    async def counted(names: Iterable[str]) -> AsyncIterator[Entry]:
        nonlocal ahead, furthest
        for name in names:
            ahead += 1
            furthest = max(furthest, ahead)
            yield file(name.encode())

    names = [f"{number:05d}" for number in range(1000)]
    async for _ in diff(counted(names), listing(())):
        ahead -= 1
    assert furthest <= 2


def test_a_touched_file_may_have_other_content_and_a_touched_directory_has_not() -> None:
    assert kind_of(file(b"f"), file(b"f", modify_time_ns=1)) is ChangeKind.CONTENT
    directory = dataclasses.replace(file(b"d"), type=EntryType.DIRECTORY)
    assert kind_of(directory, dataclasses.replace(directory, modify_time_ns=1)) is ChangeKind.METADATA
    assert kind_of(file(b"f"), dataclasses.replace(file(b"f"), type=EntryType.FIFO)) is ChangeKind.TYPE


def test_what_differs_is_named() -> None:
    change = compare(file(b"f"), dataclasses.replace(file(b"f"), mode=0o600, uid=1, gid=2, size=3, link_target=b"x"))
    assert change is not None
    assert set(change.attributes) == set(Attribute) - {Attribute.MODIFY_TIME}
    assert change.kind is ChangeKind.CONTENT


def file(path: bytes, modify_time_ns: int = 0) -> Entry:
    return Entry(path, EntryType.FILE, 0o644, 0, 0, 0, modify_time_ns)


def kind_of(before: Entry, after: Entry) -> ChangeKind | None:
    change = compare(before, after)
    return change.kind if change is not None else None


async def listing(entries: Iterable[Entry]) -> AsyncIterator[Entry]:
    for entry in sorted(entries, key=lambda entry: archive_order(entry.path)):
        yield entry
