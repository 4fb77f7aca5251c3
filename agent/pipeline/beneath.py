"""Access to paths strictly below a folder: every component is opened by descriptor, and no symbolic link is followed.

Whatever a manifest, a path or a link in the folder says, nothing outside is reached.
"""

from __future__ import annotations

import os
import stat
from types import TracebackType

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Beneath:
    """Directories below a root, opened component by component. One per thread.

    The descriptors of the last path stay open, so entries in archive order cost one or no open each.
    """

    def __init__(self, root_fd: int) -> None:
        self._root_fd = root_fd
        self._names: list[bytes] = []
        self._fds: list[int] = []

    def __enter__(self) -> Beneath:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.forget()

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Returns the descriptor of the directory that holds ``path``, and the last component.

        The descriptor stays valid until the next call.

        Raises:
            OSError: a component is missing (ENOENT), is no directory or a symbolic link (ENOTDIR, ELOOP).
        """
        directory, _, name = path.rpartition(b"/")
        return self.directory(directory), name

    def directory(self, path: bytes) -> int:
        """Returns the descriptor of the directory ``path``; empty for the root. Valid until the next call."""
        names = path.split(b"/") if path else []
        common = 0
        while common < min(len(names), len(self._names)) and names[common] == self._names[common]:
            common += 1
        self._cut(common)
        for name in names[common:]:
            parent = self._fds[-1] if self._fds else self._root_fd
            self._fds.append(os.open(name, DIRECTORY_FLAGS, dir_fd=parent))
            self._names.append(name)
        return self._fds[-1] if self._fds else self._root_fd

    def forget(self) -> None:
        """Closes what is open below the root."""
        self._cut(0)

    def _cut(self, length: int) -> None:
        while len(self._fds) > length:
            os.close(self._fds.pop())
            self._names.pop()


def remove(parent_fd: int, name: bytes) -> None:
    """Removes an entry, with everything below it if it is a directory; links are removed, never followed.

    Raises:
        OSError: something could not be removed. An entry that does not exist is no error.
    """
    if _remove_file(parent_fd, name):
        return
    # A stack and not recursion: trees may be deeper than Python's frames.
    open_fds: list[tuple[int, bytes]] = []
    pending: list[list[bytes]] = [[name]]
    try:
        while pending:
            fd = open_fds[-1][0] if open_fds else parent_fd
            if pending[-1]:
                child = pending[-1].pop()
                if not _remove_file(fd, child):
                    child_fd = os.open(child, DIRECTORY_FLAGS, dir_fd=fd)
                    open_fds.append((child_fd, child))
                    pending.append(list_names(child_fd))
                continue
            pending.pop()
            if open_fds:
                done_fd, done_name = open_fds.pop()
                os.close(done_fd)
                os.rmdir(done_name, dir_fd=open_fds[-1][0] if open_fds else parent_fd)
    finally:
        for fd, _ in open_fds:
            os.close(fd)


def _remove_file(parent_fd: int, name: bytes) -> bool:
    """Removes an entry unless it is a directory; says whether nothing is there any more."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            return False
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        pass
    return True


def list_names(fd: int) -> list[bytes]:
    """Returns the names in an open directory, sorted as bytes."""
    return sorted(os.fsencode(name) for name in os.listdir(fd))
