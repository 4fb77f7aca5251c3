"""Gives what is complete its final name, whatever stands there."""

from __future__ import annotations

import errno
import os

from agent.pipeline.beneath import remove
from agent.pipeline.warnings import Warnings
from agent.repository.model import Entry
from agent.restore.request import IfNotEmpty


class FinalNames:
    """Gives final names. One per thread.

    Args:
        if_not_empty: what the request allows.
        not_made: takes the paths of what got no name, each of which is a warning.
    """

    def __init__(self, if_not_empty: IfNotEmpty, warnings: Warnings, not_made: list[bytes]) -> None:
        self._if_not_empty = if_not_empty
        self._warnings = warnings
        self._not_made = not_made

    def give(self, folder_fd: int, temporary: bytes, parent_fd: int, name: bytes, entry: Entry) -> None:
        """Renames a complete entry; removes it if a directory that must stay stands there.

        Raises:
            OSError: that cannot be done.
        """
        try:
            os.rename(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=parent_fd)
            return
        except IsADirectoryError:
            if not self._make_way(parent_fd, name, entry):
                remove(folder_fd, temporary)
                return
        os.rename(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=parent_fd)

    def _make_way(self, parent_fd: int, name: bytes, entry: Entry) -> bool:
        """Removes a directory that stands where another kind of entry belongs, if the request allows that."""
        if self._if_not_empty is IfNotEmpty.MIRROR:
            remove(parent_fd, name)
            return True
        try:
            os.rmdir(name, dir_fd=parent_fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            message = "a directory that is not empty stands there; restore with mirror to replace it"
            self._warnings.add("NOT_REPLACED", message, entry.path)
            self._not_made.append(entry.path)
            return False
        return True
