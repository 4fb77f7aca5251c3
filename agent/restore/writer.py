"""Writes entries below the target. A file gets its final name only when it is complete and verified."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os

import msgspec

from agent.pipeline.behind import Behind, Step
from agent.pipeline.beneath import Beneath, remove
from agent.pipeline.warnings import Warnings
from agent.pipeline.work_folder import WORK_FOLDER_PREFIX
from agent.repository.model import Entry, EntryType
from agent.restore.final_names import FinalNames
from agent.restore.large_files import CREATE_FLAGS, LargeFiles
from agent.restore.metadata import Metadata
from agent.restore.request import IfNotEmpty
from agent.restore.segment_file import SegmentFile, write_content
from agent.restore.target import Folders
from agent.restore.write_errors import cannot_write

DIRECT_BYTES = 128 << 10
"""Files of a pack from this size on are written past the page cache, where large files are."""

FILES_BEHIND = 4
"""Files past the page cache that one thread has others write at once, while it goes on: each waits for the disk.

Beside a store on the same two cores a restore took 0.88 of the time that it took without, and with 2 files 0.90.
"""

_NODE_MODE = {EntryType.FIFO: 0o010000, EntryType.CHARACTER_DEVICE: 0o020000, EntryType.BLOCK_DEVICE: 0o060000}


class TreePlace(msgspec.Struct, frozen=True):
    """Where a whole directory is built, and where it belongs, by descriptors of folders and names in them.

    Whoever asked for it closes ``parent_fd``.
    """

    work_fd: int
    temporary: bytes
    parent_fd: int
    name: bytes


class Writer:
    """Writes into one target. One per thread: it keeps the directories of the last path open.

    Args:
        folders: the target and its work folder.
        number: differs from that of every other writer of the restore; its temporary names begin with it.
        is_fresh: the target was empty; directories are made when something is written into them.
        bypasses_cache: large files are written past the page cache, where the file system can.

    Attributes:
        large: the files whose content comes in segments.
    """

    def __init__(
        self,
        folders: Folders,
        number: int,
        if_not_empty: IfNotEmpty,
        metadata: Metadata,
        is_fresh: bool,
        bypasses_cache: bool,
        warnings: Warnings,
    ) -> None:
        self._folders = folders
        self._temporary_names = (b"%d-%d" % (number, count) for count in itertools.count())
        self._metadata = metadata
        self.bypasses_cache = bypasses_cache
        self._warnings = warnings
        self._beneath = Beneath(folders.root_fd, makes_missing=is_fresh)
        self._not_made: list[bytes] = []
        self._names = FinalNames(if_not_empty, warnings, self._not_made)
        self._behind = Behind("file-write", FILES_BEHIND)
        self.large = LargeFiles(folders, self._beneath, self._names, metadata, bypasses_cache)

    def close(self) -> None:
        """Closes the open directories and ends its threads."""
        self._behind.close()
        self._beneath.forget()

    def then(self, step: Step) -> None:
        """Has a step taken once all files that were made so far are whole: at once, or in a later call.

        Raises:
            GpusnapError: a file cannot be written; the message names it.
        """
        self._behind.then(step)

    def finish(self) -> None:
        """Waits until everything that was made is whole and in its place; raises as ``then``."""
        self._behind.finish()

    def settle(self) -> None:
        """Waits until no file is written any more, whether they are whole or not."""
        self._behind.settle()

    def take_not_made(self) -> tuple[bytes, ...]:
        """Returns the paths that were left out with a warning since the last call."""
        taken = tuple(self._not_made)
        self._not_made.clear()
        return taken

    def write_small(self, entry: Entry, content: memoryview) -> None:
        """Writes an entry of a pack: a file with its stored content, a link, a pipe or a device.

        It may have its place only after ``finish``, and the content must stay until then.

        Raises:
            GpusnapError: it cannot be written; the message names it.
        """
        try:
            parent_fd, name = self._beneath.parent(entry.path)
            self._make(self._folders.work_fd, next(self._temporary_names), parent_fd, name, entry, content)
        except OSError as error:
            raise cannot_write(entry, error) from error

    def link(self, entry: Entry, original: bytes) -> None:
        """Makes a further name of a file that was restored, unless it is one already.

        Raises:
            GpusnapError: it cannot be made.
        """
        try:
            source_fd = os.dup(self._beneath.parent(original)[0])
            try:
                temporary = next(self._temporary_names)
                source_name = original.rpartition(b"/")[2]
                if _is_same_file(source_fd, source_name, *self._beneath.parent(entry.path)):
                    return
                work_fd = self._folders.work_fd
                try:
                    os.link(source_name, temporary, src_dir_fd=source_fd, dst_dir_fd=work_fd, follow_symlinks=False)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    work_fd = self._beneath.directory(entry.path.rpartition(b"/")[0])
                    temporary = WORK_FOLDER_PREFIX + temporary
                    os.link(source_name, temporary, src_dir_fd=source_fd, dst_dir_fd=work_fd, follow_symlinks=False)
                parent_fd, name = self._beneath.parent(entry.path)
                self._names.give(work_fd, temporary, parent_fd, name, entry)
            finally:
                os.close(source_fd)
        except OSError as error:
            raise cannot_write(entry, error) from error

    def create(self, folder_fd: int, name: bytes, entry: Entry, content: memoryview, is_ours: bool) -> bool:
        """Makes an entry of a pack with all its metadata. A file may be whole only once a step is taken (``then``).

        Args:
            is_ours: the folder is in the work folder: nobody else can enter it, and it hands no group on.

        Returns:
            Whether it was made: without privilege a device is not, which is a warning.

        Raises:
            OSError: it cannot be made; something may be there under its name.
        """
        if entry.type is EntryType.FILE:
            self._create_file(folder_fd, name, entry, content, is_ours)
        elif entry.type is EntryType.SYMLINK:
            os.symlink(entry.link_target, name, dir_fd=folder_fd)
            self._metadata.apply_to_name(folder_fd, name, entry, is_link=True)
        else:
            device = os.makedev(entry.device_major, entry.device_minor)
            if not self._make_node(name, _NODE_MODE[entry.type], device, folder_fd, entry):
                return False
            self._metadata.apply_to_name(folder_fd, name, entry, is_link=False)
        return True

    def tree_place(self, path: bytes) -> TreePlace | None:
        """Returns where a whole directory can be built and where it belongs; ``None`` on another file system.

        Raises:
            OSError: the folder that it belongs in cannot be opened or made.
        """
        parent_fd, name = self._beneath.parent(path)
        if os.fstat(parent_fd).st_dev != os.fstat(self._folders.work_fd).st_dev:
            return None
        return TreePlace(self._folders.work_fd, next(self._temporary_names), os.dup(parent_fd), name)

    def _make(
        self, folder_fd: int, temporary: bytes, parent_fd: int, name: bytes, entry: Entry, content: memoryview
    ) -> None:
        try:
            if not self.create(folder_fd, temporary, entry, content, is_ours=folder_fd == self._folders.work_fd):
                return
        except BaseException:
            remove(folder_fd, temporary)
            raise
        if self._is_behind(entry):
            self._place_once_whole(folder_fd, temporary, parent_fd, name, entry, content)
        else:
            self._place(folder_fd, temporary, parent_fd, name, entry, content)

    def _place_once_whole(
        self, folder_fd: int, temporary: bytes, parent_fd: int, name: bytes, entry: Entry, content: memoryview
    ) -> None:
        # What is written meanwhile may have this folder closed.
        kept_fd = os.dup(parent_fd)
        if folder_fd == parent_fd:
            folder_fd = kept_fd

        def place(is_whole: bool) -> None:
            try:
                if is_whole:
                    self._place(folder_fd, temporary, kept_fd, name, entry, content)
                else:
                    with contextlib.suppress(OSError):
                        remove(folder_fd, temporary)
            except OSError as error:
                raise cannot_write(entry, error) from error
            finally:
                os.close(kept_fd)

        self._behind.then(place)

    def _place(
        self, folder_fd: int, temporary: bytes, parent_fd: int, name: bytes, entry: Entry, content: memoryview
    ) -> None:
        """Gives an entry its final name; makes it anew beside that on another file system than the work folder's."""
        try:
            self._names.give(folder_fd, temporary, parent_fd, name, entry)
        except BaseException as error:
            remove(folder_fd, temporary)
            if not isinstance(error, OSError) or error.errno != errno.EXDEV or folder_fd == parent_fd:
                raise
            beside = WORK_FOLDER_PREFIX + next(self._temporary_names)
            self._make(parent_fd, beside, parent_fd, name, entry, content)

    def _create_file(self, folder_fd: int, name: bytes, entry: Entry, content: memoryview, is_ours: bool) -> None:
        mode = self._metadata.mode_at_creation(entry) if is_ours else None
        fd = os.open(name, CREATE_FLAGS, 0o600 if mode is None else mode, dir_fd=folder_fd)

        def fill() -> None:
            try:
                if entry.sparse:
                    os.ftruncate(fd, entry.size)
                if is_direct:
                    SegmentFile(fd, entry, bypass=True).write(0, content)
                else:
                    write_content(fd, entry, 0, content)
                self._metadata.apply(fd, entry, is_ours, has_mode=mode is not None)
            except OSError as error:
                raise cannot_write(entry, error) from error
            finally:
                os.close(fd)

        is_direct = self._is_behind(entry)
        if not is_direct:
            fill()
            return
        try:
            self._behind.do(fill)
        except BaseException:
            # An earlier file has failed, and this one was not begun.
            os.close(fd)
            raise

    def _is_behind(self, entry: Entry) -> bool:
        """Says whether a file is written past the page cache, while the next ones are made."""
        return self.bypasses_cache and entry.type is EntryType.FILE and entry.data_size >= DIRECT_BYTES

    def _make_node(self, name: bytes, kind: int, device: int, folder_fd: int, entry: Entry) -> bool:
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=folder_fd)
        except PermissionError:
            self._warnings.add("DEVICE_NOT_RESTORED", "devices cannot be made without privilege", entry.path)
            self._not_made.append(entry.path)
            return False
        return True


def _is_same_file(fd: int, name: bytes, other_fd: int, other: bytes) -> bool:
    try:
        return os.path.samestat(os.lstat(name, dir_fd=fd), os.lstat(other, dir_fd=other_fd))
    except FileNotFoundError:
        return False
