"""Whether what the target holds already is what belongs there. Pure."""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Container

from agent.repository.model import Entry, EntryType

_FORMATS = {
    EntryType.FILE: stat.S_IFREG,
    EntryType.SYMLINK: stat.S_IFLNK,
    EntryType.FIFO: stat.S_IFIFO,
    EntryType.CHARACTER_DEVICE: stat.S_IFCHR,
    EntryType.BLOCK_DEVICE: stat.S_IFBLK,
}
_DEVICES = frozenset({EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE})


class Comparing(enum.Enum):
    """How a restore tells files that are as they should be from those that are not."""

    NOT = "not"
    """Nothing was there before, so nothing is compared."""

    TIMES = "times"
    """By size and time."""

    CONTENT = "content"
    """By size and content."""


def may_be_kept(entry: Entry, facts: os.stat_result, intact_groups: Container[int]) -> bool:
    """Says whether a name leads to what the entry is, as far as ``lstat`` tells without its times.

    A file with other names than the snapshot gives it is never kept: what changes it later would change those too.

    Args:
        intact_groups: the hard-link groups of the entry's snapshot whose names, and no others, all are one file.
    """
    if stat.S_IFMT(facts.st_mode) != _FORMATS.get(entry.type):
        return False
    if facts.st_nlink != 1 and entry.hard_link_group not in intact_groups:
        return False
    if entry.type in _DEVICES:
        return facts.st_rdev == os.makedev(entry.device_major, entry.device_minor)
    return entry.type is not EntryType.FILE or facts.st_size == entry.size


def has_metadata(entry: Entry, facts: os.stat_result, xattrs: dict[bytes, bytes]) -> bool:
    """Says whether owner, mode, time and extended attributes are the entry's; a symbolic link's mode means nothing."""
    return (
        (facts.st_uid, facts.st_gid) == (entry.uid, entry.gid)
        and (entry.type is EntryType.SYMLINK or stat.S_IMODE(facts.st_mode) == entry.mode)
        and facts.st_mtime_ns == entry.mtime_ns
        and xattrs == dict(entry.xattrs)
    )
