"""Directories: made when something is written into them or before, and given their metadata after."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from agent.errors import GpusnapError, LocalIoError
from agent.pipeline.beneath import Beneath, list_names, remove
from agent.pipeline.crew import Crew
from agent.pipeline.local_errors import local_error
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import Entry, order
from agent.restore.marks import Marks
from agent.restore.metadata import Metadata
from agent.restore.request import IfNotEmpty
from agent.restore.selection import Selection
from agent.restore.target import Target, is_counted


class Directories:
    """The directories of one restore.

    Args:
        marks: those that are wanted and, in the end, have not got their metadata yet.
        is_fresh: the target was empty: whoever writes into a directory makes it.
    """

    def __init__(
        self,
        target: Target,
        manifest: ManifestReader,
        selection: Selection,
        marks: Marks,
        if_not_empty: IfNotEmpty,
        is_fresh: bool,
        crew: Crew,
    ) -> None:
        self._target = target
        self._manifest = manifest
        self._selection = selection
        self._marks = marks
        self._if_not_empty = if_not_empty
        self._is_fresh = is_fresh
        self._crew = crew
        # Folders above what was chosen keep their metadata if they were there before; the target itself always was.
        self._kept: set[bytes] = set() if selection.covers(b"") else {b""}

    def prepare(self) -> None:
        """Makes every directory that is needed, with access for us alone until its metadata is set.

        Raises:
            GpusnapError: one cannot be made; the message names it.
        """
        if self._is_fresh:
            return
        with Beneath(self._target.root_fd) as beneath:
            for entry in self._wanted():
                self._crew.check()
                if entry.path:
                    self._make_one(beneath, entry)

    def apply_metadata(self, metadata: Metadata) -> None:
        """Gives the directories that are left their metadata, deeper ones first: a mode may shut us out.

        Makes those that are missing.
        """
        with Beneath(self._target.root_fd, makes_missing=self._is_fresh) as beneath:
            for number in range(self._manifest.entry_sections - 1, -1, -1):
                for entry in reversed(self._left(number)):
                    self._crew.check()
                    if entry.path in self._kept:
                        continue
                    try:
                        # A descriptor of its own: the cached ones may be of directories that were removed since.
                        metadata.apply_to_directory(beneath.directory(entry.path), entry)
                    except OSError as error:
                        raise _cannot(entry, error) from error

    def remove_extraneous(self) -> None:
        """Removes what the snapshot does not have (mirror): two walks in archive order, side by side."""
        expected = (entry.path for entry in self._manifest.entries())
        current = next(expected, None)
        with Beneath(self._target.root_fd) as beneath:
            stack: list[Iterator[bytes]] = [self._children(beneath, b"")]
            while stack:
                path = next(stack[-1], None)
                if path is None:
                    stack.pop()
                    continue
                self._crew.check()
                while current is not None and order(current) < order(path):
                    current = next(expected, None)
                parent_fd, name = beneath.parent(path)
                if path != current and self._selection.covers(path):
                    remove(parent_fd, name)
                elif path == current and _is_directory(parent_fd, name):
                    stack.append(self._children(beneath, path))

    def _children(self, beneath: Beneath, path: bytes) -> Iterator[bytes]:
        names = list_names(beneath.directory(path))
        if path:
            return iter([path + b"/" + name for name in names])
        return iter([name for name in names if is_counted(name)])

    def _wanted(self) -> Iterator[Entry]:
        for number in range(self._manifest.entry_sections):
            yield from self._left(number)

    def _left(self, number: int) -> list[Entry]:
        positions = self._marks.of_section(number)
        return self._manifest.entries_at(number, positions) if positions else []

    def _make_one(self, beneath: Beneath, entry: Entry) -> None:
        try:
            parent_fd, name = beneath.parent(entry.path)
            try:
                os.mkdir(name, 0o700, dir_fd=parent_fd)
                return
            except FileExistsError:
                pass
            if _is_directory(parent_fd, name):
                self._keep_if_above(entry)
                _make_accessible(parent_fd, name)
                return
            if self._if_not_empty is IfNotEmpty.FAIL:
                raise LocalIoError(f"{os.fsdecode(entry.path)} appeared in the target while it was restored")
            os.unlink(name, dir_fd=parent_fd)
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except OSError as error:
            raise _cannot(entry, error) from error

    def _keep_if_above(self, entry: Entry) -> None:
        if not self._selection.covers(entry.path):
            self._kept.add(entry.path)


def _is_directory(parent_fd: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _make_accessible(parent_fd: int, name: bytes) -> None:
    """Lets the owner write into an existing directory; its mode is set again at the end."""
    if os.geteuid() == 0:
        return
    # A directory without access can only be opened as a path.
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        mode = os.fstat(fd).st_mode & 0o7777
        if mode & 0o700 != 0o700:
            os.chmod(b"/proc/self/fd/%d" % fd, mode | 0o700)
    finally:
        os.close(fd)


def _cannot(entry: Entry, error: OSError) -> GpusnapError:
    return local_error(f"the directory {entry.path.decode(errors='backslashreplace')} cannot be restored", error)
