"""What a restore that failed leaves in its work folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.repository.model import SEGMENT_SIZE
from agent.restore.kept import trim
from agent.restore.origin import FILE_NAME
from tests.support.trees import File, Sparse, build

ORIGIN = os.fsdecode(FILE_NAME)


@pytest.fixture
def work_fd(tmp_path: Path) -> Iterator[int]:
    """A work folder in which there is nothing that a restore could go on with."""
    whole = File(b"large-whole", Sparse(SEGMENT_SIZE, ()))
    build(os.fsencode(tmp_path), [whole, File(FILE_NAME, b"{}"), File(b"0-1/deep", b"x")])
    with (tmp_path / "0-2").open("wb") as file:
        file.truncate(SEGMENT_SIZE + 1)
    fd = os.open(tmp_path, DIRECTORY_FLAGS)
    yield fd
    os.close(fd)


def test_large_files_of_several_segments_stay_with_what_says_where_they_come_from(work_fd: int, tmp_path: Path) -> None:
    with (tmp_path / "large-longer").open("wb") as file:
        file.truncate(SEGMENT_SIZE + 1)
    assert trim(work_fd)
    assert sorted(os.listdir(tmp_path)) == sorted([ORIGIN, "large-longer"])


def test_nothing_stays_if_no_restore_could_go_on_with_it(work_fd: int, tmp_path: Path) -> None:
    assert not trim(work_fd)
    assert os.listdir(tmp_path) == []
