"""What tells that a file of a target holds some content."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import CancelledError
from agent.repository.model import Entry, EntryType
from agent.restore import elsewhere
from agent.restore.elsewhere import Elsewhere, common_end
from tests.support.children import needs_root
from tests.support.disks import Disk
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


def look(root_fd: int, *sizes: int) -> Elsewhere:
    return Elsewhere(root_fd, sizes, lambda: None)


@pytest.mark.parametrize(
    ("path", "size", "seconds", "guess"),
    [
        (b"a/b/one", 10, 1, b"a/b/one"),
        (b"x/c/b/one", 10, 1, b"c/b/one"),
        (b"a/b/renamed", 10, 2, b"c/b/two"),
        (b"b/two", 10, 3, b"c/three"),
        (b"touched/c/three", 10, 4, b"c/three"),
        (b"last", 20, 2, b"last"),
        (b"other", 20, 2, None),
        (b"last", 21, 1, None),
        (b"unfinished", 30, 1, None),
    ],
)
def test_size_and_time_or_name_tell(root_fd: int, path: bytes, size: int, seconds: int, guess: bytes | None) -> None:
    assert look(root_fd).guess(entry(path, size, seconds)) == guess


def test_candidates_come_with_the_likeliest_first(root_fd: int) -> None:
    found = look(root_fd, 10)
    assert list(found.candidates(entry(b"x/b/two", 10, 3))) == [b"c/b/two", b"c/three", b"a/b/one", b"c/b/one"]
    assert list(found.candidates(entry(b"x", 11, 3))) == []


def test_of_other_sizes_only_name_and_time_count(root_fd: int) -> None:
    assert list(look(root_fd, 20).candidates(entry(b"x/b/two", 10, 3))) == [b"c/b/two", b"c/three"]


def test_of_one_kind_only_some_are_remembered(root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "SAME_KIND", 2)
    assert len(list(look(root_fd, 10).candidates(entry(b"x", 10, 9)))) == 2


def test_a_link_is_no_file(root_fd: int) -> None:
    assert list(look(root_fd, len(b"three")).candidates(entry(b"link", len(b"three"), 3))) == []


def test_no_more_is_remembered_than_there_is_room_for(root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for most, remembered in ((100, 5), (2, 2), (1, 1)):
        monkeypatch.setattr(elsewhere, "MOST_PLACES", most)
        found = look(root_fd)
        entries = [entry(path.encode(), 10, 1) for path in ("one", "two", "three")] + [entry(b"last", 20, 1)]
        assert sum(found.guess(each) is not None for each in entries) <= remembered


def test_a_folder_that_vanishes_is_passed_over(root_fd: int, tmp_path: Path) -> None:
    checks: list[None] = []

    def check() -> None:
        checks.append(None)
        if len(checks) == 2:
            shutil.rmtree(tmp_path / "a")

    found = Elsewhere(root_fd, (), check)
    assert found.guess(entry(b"a/b/one", 10, 1)) == b"c/b/one"


def test_a_file_that_vanishes_is_passed_over(root_fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    @contextlib.contextmanager
    def first_file_is_gone(fd: int) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(fd) as entries:
            listed = sorted(entries, key=lambda item: item.name)
        if listed and listed[0].is_file(follow_symlinks=False):
            os.unlink(listed[0].name, dir_fd=fd)
        yield listed

    monkeypatch.setattr(os, "scandir", first_file_is_gone)
    found = look(root_fd, 10)
    monkeypatch.undo()
    assert list(found.candidates(entry(b"two", 10, 2))) == [b"c/b/two", b"c/three"]


def test_it_can_be_broken_off(root_fd: int) -> None:
    def check() -> None:
        raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        Elsewhere(root_fd, (), check)


def test_it_can_be_broken_off_in_a_folder_of_very_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "_CHECK_EVERY", 16)
    build(os.fsencode(tmp_path), [file(b"%d" % number, 1, 1) for number in range(100)])
    root_fd = os.open(tmp_path, os.O_RDONLY)
    checks: list[None] = []
    Elsewhere(root_fd, (), lambda: checks.append(None))
    os.close(root_fd)
    assert 100 // 16 <= len(checks) <= 100 // 16 + 3


@needs_root
def test_file_systems_that_are_mounted_inside_are_left_alone(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "inside", 1 << 20)
    try:
        build(os.fsencode(disk.folder / "folder"), [file(b"mounted", 50, 1)])
        root_fd = os.open(tmp_path, os.O_RDONLY)
        assert look(root_fd).guess(entry(b"mounted", 50, 1)) is None
        os.close(root_fd)
    finally:
        disk.close()


def test_the_end_that_paths_have_in_common() -> None:
    assert common_end(b"a/b/c", b"x/b/c") == 2
    assert common_end(b"c", b"x/b/c") == 1
    assert common_end(b"a/b", b"a/c") == 0
    assert common_end(b"a/bc", b"a/c") == 0
