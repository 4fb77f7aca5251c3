"""The tree builder and the comparer that other tests trust: the comparer must see every kind of difference."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.support.trees import (
    Directory,
    Fifo,
    File,
    HardLink,
    Node,
    Seeded,
    Sparse,
    Symlink,
    build,
    compare,
    content_of,
    facts,
    trees,
)

TREE: list[Node] = [
    Directory(b"", mode=0o750),
    Directory(b"empty"),
    File(b"a/b\n\xff", b"hello", mode=0o4711, xattrs=((b"user.note", b"\0\xff"),)),
    File(b"a/large", Seeded(3_000_001, seed=7)),
    HardLink(b"z", b"a/large"),
    HardLink(b"y", b"a/large"),
    File(b"sparse", Sparse(1 << 20, ((65536, 8192),))),
    File(b"blank", b""),
    Symlink(b"link", b"a/../nowhere"),
    Fifo(b"pipe"),
]


TREE_TIME = File(b"").mtime_ns


@pytest.fixture
def pair(tmp_path: Path) -> tuple[bytes, bytes]:
    a, b = os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / "b")
    build(a, TREE)
    build(b, TREE)
    return a, b


def test_builds_what_is_declared(pair: tuple[bytes, bytes]) -> None:
    root, _ = pair
    assert os.stat(root).st_mode & 0o7777 == 0o750
    assert os.stat(root + b"/a/b\n\xff").st_mode & 0o7777 == 0o4711
    assert os.getxattr(root + b"/a/b\n\xff", b"user.note") == b"\0\xff"
    with open(root + b"/a/large", "rb") as file:
        assert file.read() == content_of(Seeded(3_000_001, seed=7))
    with open(root + b"/sparse", "rb") as file:
        assert file.read() == content_of(Sparse(1 << 20, ((65536, 8192),)))
    assert os.stat(root + b"/sparse").st_blocks * 512 < 1 << 19
    assert os.stat(root + b"/z").st_nlink == 3
    assert os.readlink(root + b"/link") == b"a/../nowhere"


def test_compressible_content_shrinks(tmp_path: Path) -> None:
    assert len(set(content_of(Seeded(10_000, 1, compressible=True)))) <= 61
    assert len(content_of(Seeded(2_500_000, 1, compressible=True))) == 2_500_000


def test_equal_trees_have_no_differences(pair: tuple[bytes, bytes]) -> None:
    a, b = pair
    before = facts(a)
    assert compare(a, b) == []
    assert facts(a) == before


def _flip_a_byte(root: bytes) -> None:
    with open(root + b"/a/large", "r+b") as file:
        file.seek(2_999_999)
        byte = file.read(1)[0]
        file.seek(2_999_999)
        file.write(bytes([byte ^ 1]))
    os.utime(root + b"/a/large", ns=(0, TREE_TIME))


def _fill_the_hole(root: bytes) -> None:
    with open(root + b"/sparse", "r+b") as file:
        file.write(bytes(65536))
    os.utime(root + b"/sparse", ns=(0, TREE_TIME))


def _reserve_the_hole(root: bytes) -> None:
    with open(root + b"/sparse", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    os.utime(root + b"/sparse", ns=(0, TREE_TIME))


def _break_a_hard_link(root: bytes) -> None:
    os.unlink(root + b"/y")
    shutil.copy2(root + b"/z", root + b"/y")
    os.utime(root, ns=(0, TREE_TIME))


def _replace_by_a_link(root: bytes) -> None:
    os.unlink(root + b"/blank")
    os.symlink(b"sparse", root + b"/blank")
    os.utime(root, ns=(0, TREE_TIME))


def _retarget(root: bytes) -> None:
    os.unlink(root + b"/link")
    os.symlink(b"a/../Nowhere", root + b"/link")
    os.utime(root + b"/link", ns=(0, TREE_TIME), follow_symlinks=False)
    os.utime(root, ns=(0, TREE_TIME))


def _add_and_remove(root: bytes) -> None:
    os.rename(root + b"/blank", root + b"/new")
    os.utime(root, ns=(0, TREE_TIME))


def _grow(root: bytes) -> None:
    os.truncate(root + b"/blank", 1)
    os.utime(root + b"/blank", ns=(0, TREE_TIME))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_flip_a_byte, ["a/large: content differs"]),
        (_fill_the_hole, ["sparse: data at 65536-73728 became data at 0-73728"]),
        (_reserve_the_hole, ["sparse: 8192 allocated bytes became 1048576"]),
        (_break_a_hard_link, ["y: a hard link of a/large became one of y"]),
        (_replace_by_a_link, ["blank: a file became a symbolic link"]),
        (_retarget, ["link: link target a/../nowhere became a/../Nowhere"]),
        (_add_and_remove, ["blank: missing", "new: added"]),
        (lambda root: os.chmod(root + b"/empty", 0o700), ["empty: mode 0755 became 0700"]),
        (lambda root: os.chmod(root, 0o700), [".: mode 0750 became 0700"]),
        (
            lambda root: os.utime(root + b"/pipe", ns=(0, TREE_TIME + 1)),
            [f"pipe: modification time {TREE_TIME} ns became {TREE_TIME + 1} ns"],
        ),
        (
            lambda root: os.setxattr(root + b"/empty", b"user.x", b"1"),
            ["empty: extended attributes {} became {'user.x': b'1'}"],
        ),
        (_grow, ["blank: size 0 became 1"]),
    ],
)  # fmt: skip
def test_every_difference_is_seen(
    pair: tuple[bytes, bytes], change: Callable[[bytes], None], expected: list[str]
) -> None:
    a, b = pair
    change(b)
    assert compare(a, b) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change owners")
def test_owners_are_compared_unless_told_otherwise(pair: tuple[bytes, bytes]) -> None:
    a, b = pair
    os.chown(b + b"/link", 1, 2, follow_symlinks=False)
    assert compare(a, b) == ["link: owner 0:0 became 1:2"]
    assert compare(a, b, owners=False) == []


@settings(max_examples=40, deadline=None)
@given(trees())
def test_any_tree_builds_twice_the_same(nodes: list[Node]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        a, b = os.fsencode(folder) + b"/a", os.fsencode(folder) + b"/b"
        build(a, nodes)
        build(b, nodes)
        assert compare(a, b) == []
