"""Where the data of sparse files is, and how stored content maps to it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.repository.extents import content_spans
from agent.repository.model import Extent
from agent.snapshot import sparse
from agent.snapshot.source import cut, read_content
from agent.snapshot.sparse import extents_of, may_be_sparse
from tests.support.forging import file
from tests.support.pipelines import memory_folder
from tests.support.trees import File as TreeFile
from tests.support.trees import Sparse, build, content_of


@pytest.fixture
def root() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        yield os.fsencode(folder)


def open_sparse(root: bytes, content: Sparse) -> int:
    build(root, [TreeFile(b"file", content)])
    return os.open(os.path.join(root, b"file"), os.O_RDONLY)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Sparse(100_000), ()),
        (Sparse(100_000, ((8192, 4096),)), (Extent(8192, 4096),)),
        (Sparse(100_000, ((0, 1),)), (Extent(0, 4096),)),
        (Sparse(90_001, ((90_000, 1),)), (Extent(86_016, 3985),)),
        (Sparse(100_000, ((0, 4096), (40_960, 8192))), (Extent(0, 4096), Extent(40_960, 8192))),
    ],
)
def test_extents(root: bytes, content: Sparse, expected: tuple[Extent, ...]) -> None:
    fd = open_sparse(root, content)
    try:
        assert may_be_sparse(os.fstat(fd))
        assert extents_of(fd, content.size) == expected
    finally:
        os.close(fd)


def test_a_file_without_holes_has_no_map(root: bytes) -> None:
    fd = open_sparse(root, Sparse(5000, ((0, 5000),)))
    try:
        assert extents_of(fd, 5000) is None
        assert not may_be_sparse(os.fstat(fd))
    finally:
        os.close(fd)


def test_too_many_holes_are_stored_as_zeros(root: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "MAX_EXTENTS", 10)
    content = Sparse(50 * 65536, tuple((number * 65536, 100) for number in range(50)))
    fd = open_sparse(root, content)
    try:
        extents = extents_of(fd, content.size)
        assert extents is not None
        assert 1 <= len(extents) <= 10
        entry = file(
            b"file", 0, sum(extent.length for extent in extents), sparse=True, size=content.size, extents=extents
        )
        stored = memoryview(bytearray(entry.data_size))
        assert read_content(fd, entry, 0, stored) == entry.data_size
        whole = bytearray(content.size)
        position = 0
        for offset, length in content_spans(entry, 0, entry.data_size):
            whole[offset : offset + length] = stored[position : position + length]
            position += length
        assert bytes(whole) == content_of(content)
    finally:
        os.close(fd)


@given(
    runs=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), max_size=6),
    start=st.integers(0, 200),
    length=st.integers(0, 200),
)
def test_spans_are_like_a_naive_map(runs: list[tuple[int, int]], start: int, length: int) -> None:
    extents, end = [], 0
    for gap, size in runs:
        extents.append(Extent(end + gap, size))
        end += gap + size
    offsets = [extent.offset + number for extent in extents for number in range(extent.length)]
    start = min(start, len(offsets))
    length = min(length, len(offsets) - start)
    entry = file(b"f", 0, len(offsets), sparse=True, size=end, extents=tuple(extents))
    found = [offset + number for offset, size in content_spans(entry, start, length) for number in range(size)]
    assert found == offsets[start : start + length]
    shorter = cut(entry, length)
    assert [e.offset + n for e in shorter.extents for n in range(e.length)] == offsets[:length]
    assert shorter.data_size == length
    plain = file(b"f", 0, 100)
    assert list(content_spans(plain, start, length)) == ([(start, length)] if length else [])


def test_what_a_file_lost_is_read_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    fd = os.open(path, os.O_RDONLY)
    try:
        out = memoryview(bytearray(b"?" * 300))
        assert read_content(fd, file(b"file", 0, 300), 0, out) == 100
        assert bytes(out) == b"x" * 100 + bytes(200)
    finally:
        os.close(fd)
