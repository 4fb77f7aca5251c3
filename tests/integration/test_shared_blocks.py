"""Copies within a target on a file system whose files can share blocks take no room and move no bytes."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config.model import MIB
from agent.repository.model import SEGMENT_SIZE
from agent.restore.request import IfNotEmpty
from tests.support.disks import sharing_disk
from tests.support.saved import Saved
from tests.support.trees import File, Seeded

SIZE = SEGMENT_SIZE + 5000
"""Of a file whose last segment ends within a block."""


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Saved]:
    """A model that is restored already, on such a file system; the rest lies elsewhere."""
    saved = Saved(tmp_path, [File(b"model", Seeded(SIZE))])
    with sharing_disk(tmp_path / "disk", 512 * MIB) as disk:
        saved.target = disk / "target"
        saved.restore()
        yield saved


def free(path: Path) -> int:
    """Bytes that are free once all that was written is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.sync()
        facts = os.fstatvfs(fd)
    finally:
        os.close(fd)
    return facts.f_bfree * facts.f_frsize


def test_a_renamed_model_is_shared(saved: Saved) -> None:
    (saved.target / "model").rename(saved.target / "renamed")
    before = free(saved.target)
    saved.restore(IfNotEmpty.OVERWRITE)
    assert saved.pipelines.moved() == set()
    assert (saved.target / "model").read_bytes() == (saved.target / "renamed").read_bytes()
    assert before - free(saved.target) < SIZE // 4


def test_what_is_shared_is_verified(saved: Saved) -> None:
    (saved.target / "model").rename(saved.target / "renamed")
    with (saved.target / "renamed").open("r+b") as file:
        file.seek(SEGMENT_SIZE + 7)
        file.write(b"changed")
    saved.restore(IfNotEmpty.OVERWRITE)
    assert saved.pipelines.moved() == {saved.chunks[saved.entries[b"model"].chunk + 2].id.hex()}
    assert (saved.target / "model").read_bytes() == (saved.workspace / "model").read_bytes()
    assert (saved.target / "renamed").read_bytes() != (saved.workspace / "model").read_bytes()


def test_sharing_needs_no_room(saved: Saved) -> None:
    (saved.target / "model").rename(saved.target / "renamed")
    with (saved.target / "filling").open("wb") as file, contextlib.suppress(OSError):
        for start in itertools.count(0, 4 * MIB):
            os.posix_fallocate(file.fileno(), start, 4 * MIB)
    os.truncate(saved.target / "filling", (saved.target / "filling").stat().st_size - SIZE // 2)
    os.sync()
    saved.restore(IfNotEmpty.OVERWRITE)
    assert saved.pipelines.moved() == set()
