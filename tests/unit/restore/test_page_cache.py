"""The rule for the page cache, and writing past it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import MIB, PageCache
from agent.pipeline.memory import anonymous
from agent.repository.model import Entry, EntryType, Extent
from agent.restore.page_cache import bypasses
from agent.restore.segment_file import SegmentFile

GIB = 1 << 30


@pytest.mark.parametrize(
    ("choice", "large", "free", "cores", "expected"),
    [
        (PageCache.AUTO, GIB, 64 * GIB, 16, False),
        (PageCache.AUTO, 32 * GIB, 64 * GIB, 16, True),
        (PageCache.AUTO, GIB, 64 * GIB, 2, True),
        (PageCache.AUTO, GIB, 0, 16, True),
        (PageCache.WARM, 64 * GIB, GIB, 2, False),
        (PageCache.BYPASS, GIB, 64 * GIB, 16, True),
    ],
)
def test_the_rule(choice: PageCache, large: int, free: int, cores: int, expected: bool) -> None:
    assert bypasses(choice, large, free, cores) is expected


def _entry(size: int, extents: tuple[Extent, ...] | None = None) -> Entry:
    stored = size if extents is None else sum(extent.length for extent in extents)
    return Entry(
        b"f", EntryType.FILE, 0o644, 0, 0, 0, size, sparse=extents is not None, extents=extents or (), data_size=stored
    )


@given(size=st.sampled_from([1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB + 4099]), bypass=st.booleans())
def test_blocks_in_any_order_make_the_file(tmp_path_factory: pytest.TempPathFactory, size: int, bypass: bool) -> None:
    path = tmp_path_factory.mktemp("segment") / "file"
    content = random.Random(size).randbytes(size)
    file = SegmentFile(os.open(path, os.O_WRONLY | os.O_CREAT), _entry(size), bypass)
    memory = anonymous(MIB)
    starts = list(range(0, size, MIB))
    for start in reversed(starts):
        block = content[start : start + MIB]
        memory[: len(block)] = block
        file.write(start, memory[: len(block)])
    file.close()
    assert path.read_bytes() == content


@pytest.mark.parametrize("folder", ["disk", "tmpfs"])
def test_memory_that_begins_anywhere_is_written_too(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "file" if folder == "disk" else Path(f"/dev/shm/gpusnap-test-{os.getpid()}")
    content = os.urandom(MIB + 3)
    try:
        file = SegmentFile(os.open(path, os.O_WRONLY | os.O_CREAT), _entry(MIB), bypass=True)
        file.write(0, memoryview(content)[3:])
        file.close()
        assert path.read_bytes() == content[3:]
    finally:
        path.unlink()


def test_a_sparse_file_gets_its_runs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    entry = _entry(20000, (Extent(512, 1000), Extent(8192, 4096), Extent(19000, 1000)))
    content = os.urandom(6096)
    file = SegmentFile(os.open(path, os.O_WRONLY | os.O_CREAT), entry, bypass=True)
    file.write(2000, memoryview(content)[2000:])
    file.write(0, memoryview(content)[:2000])
    file.close()
    found = path.read_bytes()
    assert (found[512:1512], found[8192:12288], found[19000:]) == (content[:1000], content[1000:5096], content[5096:])
