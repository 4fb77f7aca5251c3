"""Entries of an earlier manifest: found beside a scan, and taken over into a new one as they are."""

from __future__ import annotations

import io

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DataLossError
from agent.events import ChunkKind
from agent.repository import manifest_writer
from agent.repository.manifest_reader import ManifestReader
from agent.repository.manifest_walk import SavedEntry, finder
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Chunk, Entry, order
from tests.support import forging

TABLE = [Chunk(number.to_bytes(32, "big"), 64 << 20, 1000, ChunkKind.PACK) for number in range(200)]
PER_SECTION = 4


@pytest.fixture(autouse=True)
def small_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_writer, "ENTRIES_PER_SECTION", PER_SECTION)
    monkeypatch.setattr(manifest_writer, "SPARSE_SECTION", 1)


def opened(data: bytes) -> ManifestReader:
    return ManifestReader(lambda offset, size: data[offset : offset + size], data, len(data))


def manifest(entries: list[Entry]) -> ManifestReader:
    file = io.BytesIO()
    writer = ManifestWriter(file)
    for entry in entries:
        writer.add_entry(entry)
    writer.finish(forging.summary(), TABLE, [])
    return opened(file.getvalue())


def tree(chunks: list[int]) -> list[Entry]:
    """Returns one entry for each number of a chunk."""
    return [
        forging.file(b"%03d" % number, 0, number, chunk=chunk, ctime_ns=7, inode=number, device=3)
        for number, chunk in enumerate(sorted(chunks))
    ]


def walked(reader: ManifestReader, paths: list[bytes]) -> list[SavedEntry | None]:
    find = finder(reader, forging.refuse)
    return [find(path) for path in paths]


@settings(max_examples=200, deadline=None)
@given(
    chunks=st.lists(st.integers(0, 6), max_size=30),
    asked=st.sets(st.sampled_from([b"%03d" % number for number in range(32)] + [b"", b"0", b"003/x", b"zz"])),
)
def test_a_walk_finds_what_is_there_and_where_chunks_begin_and_end(chunks: list[int], asked: set[bytes]) -> None:
    entries = tree(chunks)
    places = {entry.path: number for number, entry in enumerate(entries)}
    paths = sorted(asked, key=order)
    for path, saved in zip(paths, walked(manifest(entries), paths), strict=True):
        if path not in places:
            assert saved is None
            continue
        assert saved is not None
        number = places[path]
        entry = entries[number]
        beside = {place: entries[place].chunk for place in (number - 1, number + 1) if 0 <= place < len(entries)}
        assert (saved.number, saved.path, saved.type, saved.chunk) == (number, path, entry.type, entry.chunk)
        assert saved.begins == (beside.get(number - 1) != entry.chunk)
        assert saved.ends == (beside.get(number + 1) != entry.chunk)
        assert saved.facts == (entry.size, entry.mtime_ns, 7, entry.inode, 3)
        assert saved.entry() == entry
        assert saved.unplaced() == msgspec.structs.replace(entry, chunk=0)


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.lists(st.integers(0, 6), min_size=1, max_size=30),
    steps=st.lists(
        st.tuples(st.sampled_from(["keep", "drop", "add"]), st.integers(1, 9), st.integers(0, 1)), max_size=20
    ),
    fill=st.sampled_from([0, 3, 100]),
)
def test_saved_entries_are_written_like_any_others(
    chunks: list[int], steps: list[tuple[str, int, int]], fill: int
) -> None:
    entries = tree(chunks)
    earlier = manifest(entries)
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_writer, "SPARSE_SECTION", fill)
        writer = ManifestWriter(file, earlier)
    expected: list[Entry] = []
    place = shift = 0
    for step, count, more in steps:
        if step == "add":
            path = entries[place - 1].path + b".%03d" % len(expected) if place else b"!%03d" % len(expected)
            new = forging.file(path, 0, count, chunk=(expected[-1].chunk if expected else 0))
            writer.add_entry(msgspec.structs.replace(new, chunk=0), new.chunk)
            expected.append(new)
            continue
        taken = entries[place : place + count]
        place += len(taken)
        if step == "keep" and taken:
            shift += more
            writer.add_saved(place - len(taken), len(taken), shift)
            expected += [msgspec.structs.replace(entry, chunk=entry.chunk + shift) for entry in taken]
    writer.finish(forging.summary(), TABLE, [])
    assert list(opened(file.getvalue()).entries()) == expected


def test_whole_sections_are_copied_as_they_are_and_others_filled() -> None:
    entries = tree([0] * (5 * PER_SECTION))
    earlier = manifest(entries)
    file = io.BytesIO()
    writer = ManifestWriter(file, earlier)
    writer.add_saved(0, 2 * PER_SECTION, 0)
    writer.add_saved(2 * PER_SECTION + 1, 3 * PER_SECTION - 1, 0)
    writer.finish(forging.summary(), TABLE, [])
    copied = opened(file.getvalue())
    assert [copied.section_index(number).count for number in range(5)] == [4, 4, 3, 4, 4]
    for number in (0, 1, 3, 4):
        assert copied.stored_section(number) == earlier.stored_section(number)
    assert list(copied.entries()) == [*entries[: 2 * PER_SECTION], *entries[2 * PER_SECTION + 1 :]]


def test_sections_that_became_small_are_filled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = tree([0] * (3 * PER_SECTION))
    monkeypatch.setattr(manifest_writer, "ENTRIES_PER_SECTION", 2)
    earlier = manifest(entries)
    monkeypatch.setattr(manifest_writer, "ENTRIES_PER_SECTION", PER_SECTION)
    monkeypatch.setattr(manifest_writer, "SPARSE_SECTION", 3)
    file = io.BytesIO()
    writer = ManifestWriter(file, earlier)
    writer.add_saved(0, len(entries), 0)
    writer.finish(forging.summary(), TABLE, [])
    assert opened(file.getvalue()).entry_sections == 3


def test_a_section_of_another_length_than_its_index_says_is_damage() -> None:
    reader = manifest(tree([0] * 9))
    reader.section_index(1).count = 3
    with pytest.raises(DataLossError, match="another number of entries"):
        walked(reader, [b"%03d" % number for number in range(9)])


def test_a_manifest_without_entries() -> None:
    assert walked(manifest([]), [b"", b"a"]) == [None, None]
