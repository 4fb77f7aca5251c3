"""Nothing outside a folder is reached, and whole trees are removed, however deep."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.pipeline import beneath
from agent.pipeline.beneath import DIRECTORY_FLAGS, Beneath, list_names, remove


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", DIRECTORY_FLAGS)
    yield fd
    os.close(fd)


def same(fd: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(fd), path.lstat())


def test_directories_are_found_in_any_order(tmp_path: Path, root_fd: int) -> None:
    for path in ("a/b/c", "a/bb", "d"):
        (tmp_path / "root" / path).mkdir(parents=True)
    with Beneath(root_fd) as found:
        for path in ("a/b/c", "a/b", "a/bb", "", "d", "a/b/c", "a"):
            assert same(found.directory(path.encode()), tmp_path / "root" / path)
        parent, name = found.parent(b"a/b/file")
        assert (same(parent, tmp_path / "root/a/b"), name) == (True, b"file")
        parent, name = found.parent(b"file")
        assert (same(parent, tmp_path / "root"), name) == (True, b"file")


@pytest.mark.parametrize("linked", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("goal", ["outside", "inside"])
def test_a_link_on_any_component_is_refused(tmp_path: Path, root_fd: int, linked: str, goal: str) -> None:
    root = tmp_path / "root"
    (tmp_path / "outside/a/b/c").mkdir(parents=True)
    (root / "inside/a/b/c").mkdir(parents=True)
    link = root / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to({"outside": tmp_path / "outside", "inside": root / "inside"}[goal] / linked)
    with Beneath(root_fd) as found, pytest.raises(OSError) as caught:
        found.directory(b"a/b/c")
    assert isinstance(caught.value, NotADirectoryError) or caught.value.errno == errno.ELOOP


def test_what_is_missing_or_a_file_is_an_error_and_closes_what_was_opened(tmp_path: Path, root_fd: int) -> None:
    (tmp_path / "root/a").mkdir()
    (tmp_path / "root/a/file").write_text("x")
    before = len(os.listdir("/proc/self/fd"))
    with Beneath(root_fd) as found:
        with pytest.raises(FileNotFoundError):
            found.directory(b"a/missing/b")
        with pytest.raises(NotADirectoryError):
            found.parent(b"a/file/b")
        assert same(found.directory(b"a"), tmp_path / "root/a")
    assert len(os.listdir("/proc/self/fd")) == before


def test_deep_paths_take_few_descriptors(root_fd: int) -> None:
    depth = 3 * beneath.MAX_OPEN
    fd = os.dup(root_fd)
    for _ in range(depth):
        os.mkdir(b"d", dir_fd=fd)
        below = os.open(b"d", DIRECTORY_FLAGS, dir_fd=fd)
        os.close(fd)
        fd = below
    identities: dict[int, int] = {}
    before = len(os.listdir("/proc/self/fd"))
    with Beneath(root_fd) as found:
        for count in (depth, depth - 1, 5, depth, beneath.MAX_OPEN, beneath.MAX_OPEN + 1, depth, 0, depth - 2):
            identity = os.fstat(found.directory(b"/".join([b"d"] * count))).st_ino
            assert identities.setdefault(count, identity) == identity
            assert len(os.listdir("/proc/self/fd")) <= before + beneath.MAX_OPEN + 1
        assert identities[depth] == os.fstat(fd).st_ino
    assert len(set(identities.values())) == len(identities)
    os.close(fd)
    remove(root_fd, b"d")
    assert list_names(root_fd) == []


def test_removing_never_follows_a_link(tmp_path: Path, root_fd: int) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("x")
    tree = tmp_path / "root/tree/deep"
    tree.mkdir(parents=True)
    (tree / "to folder").symlink_to(outside)
    (tree / "to file").symlink_to(outside / "file")
    (tree / "file").write_text("x")
    os.mkfifo(tree / "pipe")
    (tmp_path / "root/link").symlink_to(outside)
    remove(root_fd, b"tree")
    remove(root_fd, b"link")
    remove(root_fd, b"missing")
    assert list_names(root_fd) == []
    assert sorted(os.listdir(outside)) == ["file", "folder"]


def test_a_directory_that_is_moved_away_while_it_is_removed(
    tmp_path: Path, root_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going up from a directory must not end in whatever folder it was moved to."""
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (tmp_path / "root/a/b/c").mkdir(parents=True)
    listed = beneath.list_names

    def move_then_list(fd: int) -> list[bytes]:
        names = listed(fd)
        if not names:
            (tmp_path / "root/a/b/c").rename(outside / "c")
        return names

    monkeypatch.setattr(beneath, "list_names", move_then_list)
    with pytest.raises(OSError, match="moved"):
        remove(root_fd, b"a")
    assert sorted(os.listdir(outside)) == ["b", "c"]


def test_names_are_bytes_in_order(tmp_path: Path, root_fd: int) -> None:
    for name in (b"\xff", b"a", b"A", b"a\n"):
        os.mkdir(os.path.join(os.fsencode(tmp_path / "root"), name))
    assert list_names(root_fd) == [b"A", b"a", b"a\n", b"\xff"]
