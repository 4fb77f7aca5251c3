"""What may stay in a target as it is."""

from __future__ import annotations

import os
import stat

import msgspec
import pytest

from agent.repository.model import Entry, EntryType
from agent.restore.present import has_metadata, may_be_kept


def facts(**changes: int) -> os.stat_result:
    """Returns what ``lstat`` says about a file of 5 bytes with one name."""
    known = {"mode": stat.S_IFREG | 0o640, "ino": 7, "dev": 1, "nlink": 1, "uid": 3, "gid": 4, "size": 5} | changes
    extra = {"st_mtime_ns": changes.get("mtime_ns", 99), "st_rdev": changes.get("rdev", 0)}
    order = ("mode", "ino", "dev", "nlink", "uid", "gid", "size")
    return os.stat_result([*(known[name] for name in order), 0, 0, 0], extra)


ENTRY = Entry(b"f", EntryType.FILE, 0o640, 3, 4, 99, size=5, data_size=5)


def test_a_file_of_the_right_size() -> None:
    assert may_be_kept(ENTRY, facts(), ())
    assert not may_be_kept(ENTRY, facts(size=6), ())


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_something_else_than_a_file(kind: int) -> None:
    assert not may_be_kept(ENTRY, facts(mode=kind | 0o640), ())


def test_further_names_must_be_known() -> None:
    linked = msgspec.structs.replace(ENTRY, hard_link_group=2)
    assert not may_be_kept(ENTRY, facts(nlink=2), {2})
    assert not may_be_kept(linked, facts(nlink=2), {1})
    assert may_be_kept(linked, facts(nlink=2), {2})
    # Its other names are missing, or other files; they are made again.
    assert may_be_kept(linked, facts(nlink=1), ())


def test_a_device_of_the_right_number() -> None:
    entry = Entry(b"d", EntryType.BLOCK_DEVICE, 0o640, 3, 4, 99, device_major=8, device_minor=1)
    assert may_be_kept(entry, facts(mode=stat.S_IFBLK, rdev=os.makedev(8, 1)), ())
    assert not may_be_kept(entry, facts(mode=stat.S_IFBLK, rdev=os.makedev(8, 2)), ())
    assert not may_be_kept(entry, facts(mode=stat.S_IFCHR, rdev=os.makedev(8, 1)), ())


@pytest.mark.parametrize("change", [{"mode": stat.S_IFREG | 0o644}, {"uid": 0}, {"gid": 0}, {"mtime_ns": 98}])
def test_metadata_that_differs(change: dict[str, int]) -> None:
    assert has_metadata(ENTRY, facts(), {})
    assert not has_metadata(ENTRY, facts(**change), {})


def test_attributes_that_differ() -> None:
    entry = msgspec.structs.replace(ENTRY, xattrs=((b"user.a", b"1"),))
    assert has_metadata(entry, facts(), {b"user.a": b"1"})
    for attributes in ({}, {b"user.a": b"2"}, {b"user.a": b"1", b"user.b": b"1"}):
        assert not has_metadata(entry, facts(), attributes)


def test_the_mode_of_a_symbolic_link_means_nothing() -> None:
    link = msgspec.structs.replace(ENTRY, type=EntryType.SYMLINK, size=0, data_size=0)
    assert has_metadata(link, facts(mode=stat.S_IFLNK | 0o777), {})
