"""Compares two trees: every byte and every piece of metadata. It shares no code with what saves and restores."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

_BLOCK = 1 << 20
# A file system may need some more blocks for the same extents (its own bookkeeping counts too).
_ALLOCATION_SLACK = 64 << 10
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class _Entry(NamedTuple):
    path: bytes
    status: os.stat_result
    leader: bytes


class _Tree(NamedTuple):
    root: bytes
    entries: dict[bytes, _Entry]


def compare(a: bytes, b: bytes, *, owners: bool = True) -> list[str]:
    """Compares the tree ``b`` with the tree ``a``, the two folders themselves included.

    Compared are names, types, content, sizes, modes, owners, modification times in nanoseconds, link targets, which
    names are one hard-linked file, extended attributes, device numbers, and where sparse files have holes.

    Args:
        a: the path of the tree as it should be.
        b: the path of the tree as it is.
        owners: whether owner and group count.

    Returns:
        One line for each difference, ordered by path; nothing if there is none.
    """
    was, now = _read_tree(a), _read_tree(b)
    differences = []
    for path in sorted(was.entries.keys() | now.entries.keys()):
        if path not in now.entries:
            differences.append(f"{show(path)}: missing")
        elif path not in was.entries:
            differences.append(f"{show(path)}: added")
        else:
            found = _compare_entry(was, now, path, owners)
            differences += [f"{show(path)}: {difference}" for difference in found]
    return differences


def show(path: bytes) -> str:
    """Writes a path on one line, with escapes for whatever is not plain text."""
    return ascii(path.decode("utf-8", "surrogateescape"))[1:-1] or "."


def _read_tree(root: bytes) -> _Tree:
    entries = {b"": _Entry(b"", os.stat(root), b"")}
    leaders: dict[tuple[int, int], bytes] = {}
    pending = [b""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder)) as scan:
            for found in scan:
                path = os.path.join(folder, found.name)
                status = found.stat(follow_symlinks=False)
                entries[path] = _Entry(path, status, path)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(path)
                elif status.st_nlink > 1:
                    inode = (status.st_dev, status.st_ino)
                    leaders[inode] = min(leaders.get(inode, path), path)
    for path, entry in entries.items():
        leader = leaders.get((entry.status.st_dev, entry.status.st_ino))
        if leader is not None:
            entries[path] = entry._replace(leader=leader)
    return _Tree(root, entries)


def _compare_entry(was: _Tree, now: _Tree, path: bytes, owners: bool) -> Iterator[str]:
    old, new = was.entries[path], now.entries[path]
    a, b = old.status, new.status
    kind = stat.S_IFMT(a.st_mode)
    if kind != stat.S_IFMT(b.st_mode):
        yield f"a {_KINDS[kind]} became a {_KINDS[stat.S_IFMT(b.st_mode)]}"
        return
    if kind != stat.S_IFLNK and a.st_mode != b.st_mode:
        yield f"mode {stat.S_IMODE(a.st_mode):04o} became {stat.S_IMODE(b.st_mode):04o}"
    if owners and (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
        yield f"owner {a.st_uid}:{a.st_gid} became {b.st_uid}:{b.st_gid}"
    if a.st_mtime_ns != b.st_mtime_ns:
        yield f"modification time {a.st_mtime_ns} ns became {b.st_mtime_ns} ns"
    if old.leader != new.leader:
        yield f"a hard link of {show(old.leader)} became one of {show(new.leader)}"
    if kind in (stat.S_IFCHR, stat.S_IFBLK) and a.st_rdev != b.st_rdev:
        yield f"device {a.st_rdev} became {b.st_rdev}"
    yield from _compare_inside(os.path.join(was.root, path), os.path.join(now.root, path), old, new)


def _compare_inside(a: bytes, b: bytes, old: _Entry, new: _Entry) -> Iterator[str]:
    """Compares what a further system call on each side tells."""
    try:
        old_attributes, new_attributes = _attributes(a), _attributes(b)
        if old_attributes != new_attributes:
            yield f"extended attributes {old_attributes} became {new_attributes}"
        if stat.S_ISLNK(old.status.st_mode) and os.readlink(a) != os.readlink(b):
            yield f"link target {show(os.readlink(a))} became {show(os.readlink(b))}"
        # The content of hard links is compared once, under the first name.
        if stat.S_ISREG(old.status.st_mode) and (old.leader == old.path or old.leader != new.leader):
            yield from _compare_files(a, b, old.status, new.status)
    except OSError as error:
        yield f"cannot be compared: {error.strerror}"


def _attributes(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}


def _compare_files(a: bytes, b: bytes, old: os.stat_result, new: os.stat_result) -> Iterator[str]:
    if old.st_size != new.st_size:
        yield f"size {old.st_size} became {new.st_size}"
        return
    if not old.st_size:
        return
    left = os.open(a, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        right = os.open(b, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield from _compare_content(left, right, old, new)
        finally:
            os.close(right)
    finally:
        os.close(left)


def _compare_content(left: int, right: int, old: os.stat_result, new: os.stat_result) -> Iterator[str]:
    extents = [(0, old.st_size)]
    if min(old.st_blocks, new.st_blocks) * 512 < old.st_size:
        extents, new_extents = _extents(left, old.st_size), _extents(right, old.st_size)
        if extents != new_extents:
            yield f"data at {_show_extents(extents)} became data at {_show_extents(new_extents)}"
            extents = [(0, old.st_size)]
        elif new.st_blocks * 512 > old.st_blocks * 512 + _ALLOCATION_SLACK:
            yield f"{old.st_blocks * 512} allocated bytes became {new.st_blocks * 512}"
    for begin, end in extents:
        for offset in range(begin, end, _BLOCK):
            length = min(_BLOCK, end - offset)
            if os.pread(left, length, offset) != os.pread(right, length, offset):
                yield f"content differs in the {length} bytes from {offset}"
                return


def _extents(descriptor: int, size: int) -> list[tuple[int, int]]:
    """Returns where a file has data, as (begin, end)."""
    extents = []
    end = 0
    while end < size:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        extents.append((begin, end))
    return extents


def _show_extents(extents: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"{begin}-{end}" for begin, end in extents[:4]) or "nowhere"
    return shown + (f" and {len(extents) - 4} more" if len(extents) > 4 else "")
