"""Compares trees: every byte and every piece of metadata. It shares no code with what saves and restores."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

_BLOCK = 1 << 20
# A file system may need some more blocks for the same extents (its own bookkeeping counts too).
_ALLOCATION_SLACK = 64 << 10
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "named pipe",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}

Extents = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Facts:
    """All that is known about one entry.

    Attributes:
        status: what ``lstat`` says.
        leader: the first name of its inode in the tree, by the order of bytes; its own unless it is hard-linked.
        attributes: its extended attributes.
        target: a symbolic link's target.
        extents: where a file has data, as (begin, end) in bytes.
        digest: SHA-256 of a file's content.
        problem: why it cannot be read; empty if it can.
    """

    status: os.stat_result
    leader: bytes
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    target: bytes = b""
    extents: Extents = ()
    digest: bytes = b""
    problem: str = ""

    @property
    def kind(self) -> str:
        """What it is, in words."""
        return _KINDS.get(stat.S_IFMT(self.status.st_mode), "thing of an unknown type")


Fingerprint = Mapping[bytes, Facts]
"""The facts about every entry of a tree by its path within, the root's own (path b"") among them."""


def fingerprint(root: bytes) -> Fingerprint:
    """Reads a whole tree. Sockets do not count, as there is nothing in them.

    Raises:
        OSError: the root itself cannot be read.
    """
    reader = _Reader()
    facts = {b"": Facts(os.stat(root), b"")}
    leaders: dict[tuple[int, int], bytes] = {}
    for path, status in _walk(root, facts):
        facts[path] = Facts(status, path)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            inode = (status.st_dev, status.st_ino)
            leaders[inode] = min(leaders.get(inode, path), path)
    for path in sorted(facts):
        known = facts[path]
        leader = leaders.get((known.status.st_dev, known.status.st_ino), path)
        if leader == path:
            facts[path] = reader.complete(os.path.join(root, path), known)
        else:
            facts[path] = replace(facts[leader], leader=leader)
    return facts


def differences(was: Fingerprint, now: Fingerprint, *, owners: bool = True) -> list[str]:
    """Returns one line for each difference, ordered by path; nothing if there is none.

    Compared are names, types, content, sizes, modes, owners, modification times in nanoseconds, link targets, which
    names are one hard-linked file, extended attributes, device numbers, and where sparse files have holes.

    Args:
        was: the tree as it should be.
        now: the tree as it is.
        owners: whether owner and group count.
    """
    found = []
    for path in sorted(was.keys() | now.keys()):
        if path not in now:
            found.append(f"{show(path)}: missing")
        elif path not in was:
            found.append(f"{show(path)}: added")
        elif path == was[path].leader or was[path].leader != now[path].leader:
            # Further names of one file would only say the same again.
            found += [f"{show(path)}: {difference}" for difference in _differ(was[path], now[path], owners)]
    return found


def compare(a: bytes, b: bytes, *, owners: bool = True) -> list[str]:
    """Compares the tree below ``b`` with the one below ``a``; see ``differences``."""
    return differences(fingerprint(a), fingerprint(b), owners=owners)


def show(path: bytes) -> str:
    """Writes a path on one line, with escapes for whatever is not plain text."""
    return ascii(path.decode("utf-8", "surrogateescape"))[1:-1] or "."


def _walk(root: bytes, facts: dict[bytes, Facts]) -> Iterator[tuple[bytes, os.stat_result]]:
    pending = [b""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as scan:
                children = list(scan)
        except OSError as error:
            if not folder:
                raise
            facts[folder] = replace(facts[folder], problem=error.strerror or str(error))
            continue
        for child in children:
            path = os.path.join(folder, child.name)
            status = child.stat(follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                continue
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)


class _Reader:
    """Adds what a look into an entry tells; reuses one buffer."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_BLOCK))

    def complete(self, path: bytes, facts: Facts) -> Facts:
        try:
            attributes = _attributes(path)
            if stat.S_ISLNK(facts.status.st_mode):
                return replace(facts, attributes=attributes, target=os.readlink(path))
            if not stat.S_ISREG(facts.status.st_mode):
                return replace(facts, attributes=attributes)
            extents, digest = self._content(path, facts.status)
            return replace(facts, attributes=attributes, extents=extents, digest=digest)
        except OSError as error:
            return replace(facts, problem=error.strerror or str(error))

    def _content(self, path: bytes, status: os.stat_result) -> tuple[Extents, bytes]:
        digest = hashlib.sha256()
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            extents = tuple(_extents(descriptor, status.st_size))
            os.lseek(descriptor, 0, os.SEEK_SET)
            while count := os.readv(descriptor, [self._buffer]):
                digest.update(self._buffer[:count])
        finally:
            os.close(descriptor)
        return extents, digest.digest()


def _attributes(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, end


def _differ(was: Facts, now: Facts, owners: bool) -> Iterator[str]:
    a, b = was.status, now.status
    if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
        yield f"a {was.kind} became a {now.kind}"
        return
    for problem in {was.problem, now.problem} - {""}:
        yield f"cannot be compared: {problem}"
    if a.st_mode != b.st_mode and not stat.S_ISLNK(a.st_mode):
        yield f"mode {stat.S_IMODE(a.st_mode):04o} became {stat.S_IMODE(b.st_mode):04o}"
    if owners and (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
        yield f"owner {a.st_uid}:{a.st_gid} became {b.st_uid}:{b.st_gid}"
    if a.st_mtime_ns != b.st_mtime_ns:
        yield f"modification time {a.st_mtime_ns} ns became {b.st_mtime_ns} ns"
    if was.leader != now.leader:
        yield f"a hard link of {show(was.leader)} became one of {show(now.leader)}"
    if was.kind.endswith("device") and a.st_rdev != b.st_rdev:
        yield f"device {a.st_rdev} became {b.st_rdev}"
    if was.attributes != now.attributes:
        yield f"extended attributes {was.attributes} became {now.attributes}"
    if was.target != now.target:
        yield f"link target {show(was.target)} became {show(now.target)}"
    if stat.S_ISREG(a.st_mode):
        yield from _differ_in_content(was, now)


def _differ_in_content(was: Facts, now: Facts) -> Iterator[str]:
    a, b = was.status, now.status
    if a.st_size != b.st_size:
        yield f"size {a.st_size} became {b.st_size}"
    elif was.digest != now.digest:
        yield "content differs"
    elif was.extents != now.extents:
        yield f"data at {_show_extents(was.extents)} became data at {_show_extents(now.extents)}"
    elif a.st_blocks * 512 < a.st_size and b.st_blocks * 512 > a.st_blocks * 512 + _ALLOCATION_SLACK:
        yield f"{a.st_blocks * 512} allocated bytes became {b.st_blocks * 512}"


def _show_extents(extents: Extents) -> str:
    shown = ", ".join(f"{begin}-{end}" for begin, end in extents[:4]) or "nowhere"
    return shown + (f" and {len(extents) - 4} more" if len(extents) > 4 else "")
