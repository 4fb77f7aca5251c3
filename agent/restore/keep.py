"""Keeps entries of the target that are as they should be: nothing is written, but metadata that differs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container

from agent.pipeline.beneath import Beneath
from agent.repository.model import Entry, EntryType
from agent.restore.content import holds_content
from agent.restore.metadata import Metadata, xattrs_of
from agent.restore.present import Comparing, has_metadata, may_be_kept

READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Keeper:
    """Looks at what is in a target. One per thread: it keeps the directories of the last path open."""

    def __init__(self, root_fd: int, comparing: Comparing, metadata: Metadata) -> None:
        self._beneath = Beneath(root_fd)
        self._comparing = comparing
        self._metadata = metadata

    def close(self) -> None:
        """Closes the open directories."""
        self._beneath.forget()

    def keeps(
        self,
        entry: Entry,
        intact_groups: Container[int],
        content: memoryview | None = None,
        is_verified: bool = False,
    ) -> bool:
        """Keeps what is there if it is the entry, and gives it the metadata that differs; says whether it did.

        A file of several names keeps its metadata: if that differs, a new file takes its place.

        Args:
            intact_groups: as for ``present.may_be_kept``.
            content: the stored content of a small file, if it is at hand.
            is_verified: the content was compared before.
        """
        if self._comparing is Comparing.NOT:
            return False
        try:
            parent_fd, name = self._beneath.parent(entry.path)
            facts = os.lstat(name, dir_fd=parent_fd)
            if not may_be_kept(entry, facts, intact_groups):
                return False
            if entry.type is EntryType.SYMLINK and os.readlink(name, dir_fd=parent_fd) != entry.link_target:
                return False
            is_same = is_verified or self._is_same(entry, facts)
            if not (is_same or content is not None):
                return False
            is_dressed = has_metadata(entry, facts, xattrs_of(b"/proc/self/fd/%d/%s" % (parent_fd, name)))
            if is_same and is_dressed:
                return True
            if entry.type is not EntryType.FILE:
                # It has no content: making it anew is as cheap.
                return False
            if facts.st_nlink != 1 and not is_dressed:
                # Since the names of its group were counted, one of a file outside may have taken their place.
                return False
            return self._mend(parent_fd, name, facts, entry, None if is_same else content, is_dressed)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
                raise
            # Missing, unreadable or another user's: it is restored like what is not there.
            return False

    def has_file(self, path: bytes) -> bool:
        """Says whether there is a regular file at a path of the target."""
        try:
            parent_fd, name = self._beneath.parent(path)
            return stat.S_ISREG(os.lstat(name, dir_fd=parent_fd).st_mode)
        except OSError:
            return False

    def open_file(self, path: bytes) -> int:
        """Opens a file of the target for reading.

        Raises:
            OSError: it cannot be opened, or is no regular file.
        """
        parent_fd, name = self._beneath.parent(path)
        fd = os.open(name, READ_FLAGS, dir_fd=parent_fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "it is no regular file")
        return fd

    def _is_same(self, entry: Entry, facts: os.stat_result) -> bool:
        """Says whether there is nothing in a file that could differ, or its time vouches for it."""
        if entry.type is not EntryType.FILE or not entry.size:
            return True
        return self._comparing is Comparing.TIMES and facts.st_mtime_ns == entry.mtime_ns

    def _mend(
        self,
        parent_fd: int,
        name: bytes,
        facts: os.stat_result,
        entry: Entry,
        content: memoryview | None,
        is_dressed: bool,
    ) -> bool:
        """Gives a file the metadata that it lacks if it has this content (or any, for None); says whether it has."""
        fd = os.open(name, READ_FLAGS, dir_fd=parent_fd)
        try:
            if not os.path.samestat(os.fstat(fd), facts):
                return False
            if content is not None and not holds_content(fd, entry, content):
                return False
            if not is_dressed:
                self._metadata.apply_to_kept(fd, entry)
        finally:
            os.close(fd)
        return True
