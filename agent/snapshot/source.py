"""Reads the content of files that may change while they are read."""

from __future__ import annotations

import errno
import os
import stat

import msgspec

from agent.pipeline.beneath import Beneath
from agent.repository.extents import content_spans
from agent.repository.model import Entry, ManifestWarning
from agent.snapshot.sparse import extents_of, may_be_sparse

READ_ATTEMPTS = 3
"""How often a file that changes while it is read is read, before it is stored as last read."""

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_file(beneath: Beneath, path: bytes) -> int:
    """Opens a regular file of the workspace for reading, following no link on the way.

    Raises:
        OSError: it cannot be opened; FileNotFoundError also if it is no regular file any more.
    """
    return open_regular(*beneath.parent(path))


def open_regular(directory_fd: int, name: bytes) -> int:
    """Opens a regular file in an open directory for reading; raises as ``open_file``."""
    try:
        fd = os.open(name, _OPEN_FLAGS | os.O_NOATIME, dir_fd=directory_fd)
    except PermissionError:
        # O_NOATIME is only for a file's owner.
        fd = os.open(name, _OPEN_FLAGS, dir_fd=directory_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "it is no regular file any more")
    return fd


def refreshed(entry: Entry, fd: int, facts: os.stat_result) -> Entry:
    """Returns the entry with what ``fstat`` says now; the same entry if nothing changed since.

    One that changed is not sure: its attributes are still those of the scan. Another file that stands in its place
    is not what its other names lead to.
    """
    now = (facts.st_ino, facts.st_ctime_ns, facts.st_mtime_ns, facts.st_size)
    if now == (entry.inode, entry.ctime_ns, entry.mtime_ns, entry.size):
        return entry
    size = facts.st_size
    extents = extents_of(fd, size) if may_be_sparse(facts) else None
    return msgspec.structs.replace(
        entry,
        mode=facts.st_mode & 0o7777,
        uid=facts.st_uid,
        gid=facts.st_gid,
        mtime_ns=facts.st_mtime_ns,
        ctime_ns=facts.st_ctime_ns,
        inode=facts.st_ino,
        hard_link_group=entry.hard_link_group if facts.st_ino == entry.inode else 0,
        size=size,
        sparse=extents is not None,
        extents=extents or (),
        data_size=size if extents is None else sum(extent.length for extent in extents),
        device=0,
    )


def unsure(entry: Entry) -> Entry:
    """Returns an entry that the next snapshot reads again, whatever it looks like then."""
    return msgspec.structs.replace(entry, device=0)


def changed(path: bytes) -> ManifestWarning:
    """Returns the warning about a file that did not stay as it was while it was read."""
    return ManifestWarning("FILE_CHANGED", "changed while it was read, and is stored as last read", path)


def unreadable(path: bytes, error: OSError) -> ManifestWarning:
    """Returns the warning about a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return ManifestWarning("FILE_VANISHED", "vanished while the snapshot was made; not saved", path)
    return ManifestWarning("FILE_UNREADABLE", f"could not be read and was not saved: {error.strerror}", path)


def same_content(before: os.stat_result, after: os.stat_result) -> bool:
    """Says whether a file was left alone between two ``fstat``."""
    return before.st_mtime_ns == after.st_mtime_ns and before.st_size == after.st_size


def read_content(fd: int, entry: Entry, start: int, out: memoryview) -> int:
    """Fills ``out`` with the stored content from ``start``; returns how many bytes the file still had.

    What is missing because the file shrank is filled with zeros.
    """
    filled = 0
    for offset, length in content_spans(entry, start, len(out)):
        count = _read_at(fd, offset, out[filled : filled + length])
        if count < length:
            out[filled + count :] = bytes(len(out) - filled - count)
            return filled + count
        filled += length
    return filled


def cut(entry: Entry, data_size: int) -> Entry:
    """Returns the entry with only the first ``data_size`` bytes of its content."""
    if not entry.sparse:
        return msgspec.structs.replace(entry, size=data_size, data_size=data_size)
    kept = []
    left = data_size
    for extent in entry.extents:
        length = min(extent.length, left)
        if length:
            kept.append(msgspec.structs.replace(extent, length=length))
        left -= length
    return msgspec.structs.replace(entry, extents=tuple(kept), data_size=data_size)


def _read_at(fd: int, offset: int, out: memoryview) -> int:
    done = 0
    while done < len(out):
        count = os.preadv(fd, [out[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
