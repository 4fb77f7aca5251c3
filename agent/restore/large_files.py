"""Large files: they grow in the work folder, segment by segment, and get their final names once they are complete."""

from __future__ import annotations

import os
import stat

from blake3 import blake3

from agent.pipeline.beneath import Beneath, remove
from agent.pipeline.work_folder import UNFINISHED_PREFIX, WORK_FOLDER_PREFIX
from agent.repository.model import Entry
from agent.restore.final_names import FinalNames
from agent.restore.metadata import Metadata
from agent.restore.plan import LargeFile
from agent.restore.segment_file import SegmentFile, reserve
from agent.restore.target import Folders
from agent.restore.write_errors import cannot_write

CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UPDATE_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE_FLAGS = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class LargeFiles:
    """Makes, opens and publishes large files. One per thread.

    Args:
        folders: the target and its work folder.
        beneath: the directories of the target.
        names: gives final names.
        bypasses_cache: they are written past the page cache, where the file system can.
    """

    def __init__(
        self, folders: Folders, beneath: Beneath, names: FinalNames, metadata: Metadata, bypasses_cache: bool
    ) -> None:
        self._folders = folders
        self._beneath = beneath
        self._names = names
        self._metadata = metadata
        self._bypasses_cache = bypasses_cache

    def begin(self, file: LargeFile, needs_room: bool = True) -> None:
        """Makes the unfinished file of a large file, with all its room, unless that was done.

        Args:
            needs_room: fail if there is no room for all of it; it may share blocks with another file, and need none.

        Raises:
            GpusnapError: it cannot be made; the message names it.
        """
        with file.lock:
            if file.is_begun:
                return
            try:
                folder_fd, name = self._unfinished(file.entry)
                # What a killed restore left and could not be taken over.
                remove(folder_fd, name)
                fd = os.open(name, CREATE_FLAGS, 0o600, dir_fd=folder_fd)
                try:
                    reserve(fd, file.entry, needs_room)
                finally:
                    os.close(fd)
            except OSError as error:
                raise cannot_write(file.entry, error) from error
            file.is_begun = True

    def take_over(self, file: LargeFile) -> bool:
        """Goes on with the unfinished file that a killed restore left, if it did; says whether."""
        entry = file.entry
        try:
            if not self._can_go_on(entry):
                return False
            fd = self.reopen(entry)
        except OSError:
            return False
        try:
            facts = os.fstat(fd)
        finally:
            os.close(fd)
        is_taken_over = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_size == entry.size
        file.is_begun = file.is_taken_over = is_taken_over
        return is_taken_over

    def open(self, entry: Entry) -> SegmentFile:
        """Opens an unfinished file for writing blocks; the caller closes it.

        Raises:
            GpusnapError: it cannot be opened; the message names it.
        """
        try:
            folder_fd, name = self._unfinished(entry)
            return SegmentFile(os.open(name, _WRITE_FLAGS, dir_fd=folder_fd), entry, self._bypasses_cache)
        except OSError as error:
            raise cannot_write(entry, error) from error

    def reopen(self, entry: Entry) -> int:
        """Opens an unfinished file for reading and writing; the caller closes it.

        Raises:
            OSError: it cannot be opened.
        """
        folder_fd, name = self._unfinished(entry)
        return os.open(name, _UPDATE_FLAGS, dir_fd=folder_fd)

    def publish(self, file: LargeFile) -> None:
        """Gives a complete large file its metadata and its final name."""
        try:
            folder_fd, temporary = self._unfinished(file.entry)
            fd = os.open(temporary, _WRITE_FLAGS, dir_fd=folder_fd)
            try:
                self._metadata.apply(fd, file.entry, is_ours=not file.is_taken_over)
            finally:
                os.close(fd)
            parent_fd, name = self._beneath.parent(file.entry.path)
            if parent_fd != folder_fd and folder_fd != self._folders.work_fd:
                folder_fd = parent_fd
            self._names.give(folder_fd, temporary, parent_fd, name, file.entry)
        except OSError as error:
            raise cannot_write(file.entry, error) from error

    def discard(self, file: LargeFile, is_kept: bool) -> None:
        """Removes the unfinished file of a large file that will not be completed.

        Args:
            is_kept: unless another restore can go on with it.
        """
        if is_kept and not file.is_lost and self._can_go_on(file.entry):
            return
        folder_fd, name = self._unfinished(file.entry)
        remove(folder_fd, name)

    def _can_go_on(self, entry: Entry) -> bool:
        """Says whether the unfinished file of a large file may be gone on with."""
        # Only in the work folder is it certain who wrote it; and what was written into a hole would stay there.
        return not entry.sparse and self._unfinished(entry)[0] == self._folders.work_fd

    def _unfinished(self, entry: Entry) -> tuple[int, bytes]:
        """Returns where a large file grows: in the work folder, or beside its final name on another file system."""
        parent_fd, _ = self._beneath.parent(entry.path)
        name = unfinished_name(entry.path)
        if os.fstat(parent_fd).st_dev == os.fstat(self._folders.work_fd).st_dev:
            return self._folders.work_fd, name
        return parent_fd, WORK_FOLDER_PREFIX + name


def unfinished_name(path: bytes) -> bytes:
    """Returns what a large file is called while it is not complete: the same in every restore."""
    return UNFINISHED_PREFIX + blake3(path).digest(length=16).hex().encode()
