"""What tells that a file of a target holds some content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import CancelledError
from agent.repository.model import Entry, EntryType
from agent.restore import elsewhere
from agent.restore.elsewhere import Elsewhere, common_end
from tests.support.trees import Directory, File, Node, Symlink, build


def entry(path: bytes, size: int, seconds: int) -> Entry:
    return Entry(path, EntryType.FILE, 0o644, 0, 0, seconds * 10**9, size=size, data_size=size)


def file(path: bytes, size: int, seconds: int) -> Node:
    return File(path, bytes(size), mtime_ns=seconds * 10**9)


TREE: list[Node] = [
    file(b"a/b/one", 10, 1),
    file(b"c/b/one", 10, 1),
    file(b"c/b/two", 10, 2),
    file(b"c/three", 10, 3),
    Symlink(b"c/link", b"three"),
    Directory(b"empty"),
    file(b"last", 20, 1),
    file(b".gpusnap-restore-x/unfinished", 30, 1),
]


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    build(os.fsencode(tmp_path), TREE)
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def found(root_fd: int) -> Elsewhere:
    return Elsewhere(root_fd, lambda: None)


@pytest.mark.parametrize(
    ("path", "size", "seconds", "like"),
    [
        (b"a/b/one", 10, 1, b"a/b/one"),
        (b"x/c/b/one", 10, 1, b"c/b/one"),
        (b"a/b/renamed", 10, 2, b"c/b/two"),
        (b"three", 10, 3, b"c/three"),
        (b"touched/c/three", 10, 4, b"c/three"),
        (b"last", 20, 2, b"last"),
        (b"other", 20, 2, b"last"),
        (b"last", 21, 1, None),
        (b"unfinished", 30, 1, None),
    ],
)
def test_name_time_and_place_tell(found: Elsewhere, path: bytes, size: int, seconds: int, like: bytes | None) -> None:
    assert found.like(entry(path, size, seconds)) == like


def test_those_of_a_size_come_with_the_likeliest_first(found: Elsewhere) -> None:
    assert found.of_size(entry(b"x/b/two", 10, 3))[:2] == [b"c/three", b"c/b/two"]
    assert found.of_size(entry(b"x", 11, 3)) == []


def test_of_too_many_nobody_knows(root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "FILES_ALIKE", 2)
    found = Elsewhere(root_fd, lambda: None)
    assert len(found.of_size(entry(b"x", 10, 1))) == 2
    assert found.like(entry(b"x/b/one", 10, 9)) == b"x/b/one"
    assert found.like(entry(b"x/two", 10, 2)) == b"c/b/two"


def test_no_more_is_remembered_than_there_is_room_for(root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "MOST_FILES", 1)
    found = Elsewhere(root_fd, lambda: None)
    assert [found.like(entry(path, size, 1)) is None for path, size in ((b"last", 20), (b"one", 10))] == [False, True]


def test_it_can_be_broken_off(root_fd: int) -> None:
    def check() -> None:
        raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        Elsewhere(root_fd, check)


def test_the_end_that_paths_have_in_common() -> None:
    assert common_end(b"a/b/c", b"x/b/c") == 2
    assert common_end(b"c", b"x/b/c") == 1
    assert common_end(b"a/b", b"a/c") == 0
    assert common_end(b"a/bc", b"a/c") == 0
