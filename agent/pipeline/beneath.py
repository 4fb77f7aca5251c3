"""Access to paths strictly below a folder: every component is opened by descriptor, and no symbolic link is followed.

Whatever a manifest, a path or a link in the folder says, nothing outside is reached.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType

_CLOSED = -1

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

MAX_OPEN = 64
"""Directories of one path that stay open, the deepest: paths may be deeper than a process may have descriptors."""


class Beneath:
    """Directories below a root, opened component by component. One per thread.

    The descriptors of the last path stay open, so entries in archive order cost one or no open each.

    Args:
        root_fd: the root.
        makes_missing: whether missing directories are made, with access for their owner alone.
    """

    def __init__(self, root_fd: int, makes_missing: bool = False) -> None:
        self._root_fd = root_fd
        self._makes_missing = makes_missing
        self._names: list[bytes] = []
        self._fds: list[int] = []
        self._last: tuple[bytes, int] | None = None

    def __enter__(self) -> Beneath:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.forget()

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Returns the descriptor of the directory that holds ``path``, and the last component.

        The descriptor stays valid until the next call.

        Raises:
            OSError: a component is missing (ENOENT), cannot be made, or is no directory or a link (ENOTDIR, ELOOP).
        """
        directory, _, name = path.rpartition(b"/")
        return self.directory(directory), name

    def directory(self, path: bytes) -> int:
        """Returns the descriptor of the directory ``path``; empty for the root. Valid until the next call."""
        last = self._last
        if last is not None and last[0] == path:
            return last[1]
        names = path.split(b"/") if path else []
        self._cut(_common(names, self._names))
        while self._fds and self._fds[-1] == _CLOSED:
            self._cut(len(self._fds) - 1)
        for name in names[len(self._fds) :]:
            self._enter(name)
        fd = self._fds[-1] if self._fds else self._root_fd
        self._last = path, fd
        return fd

    def forget(self) -> None:
        """Closes what is open below the root."""
        self._cut(0)

    def _enter(self, name: bytes) -> None:
        fd = self._open(self._fds[-1] if self._fds else self._root_fd, name)
        self._fds.append(fd)
        self._names.append(name)
        if len(self._fds) > MAX_OPEN and self._fds[-1 - MAX_OPEN] != _CLOSED:
            os.close(self._fds[-1 - MAX_OPEN])
            self._fds[-1 - MAX_OPEN] = _CLOSED

    def _open(self, parent_fd: int, name: bytes) -> int:
        try:
            return os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd)
        except FileNotFoundError:
            if not self._makes_missing:
                raise
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            pass  # somebody else made it meanwhile
        return os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd)

    def _cut(self, length: int) -> None:
        self._last = None
        while len(self._fds) > length:
            fd = self._fds.pop()
            self._names.pop()
            if fd != _CLOSED:
                os.close(fd)


def _common(names: list[bytes], others: list[bytes]) -> int:
    """Returns how many names two paths begin with alike."""
    shorter = min(len(names), len(others))
    if names[:shorter] == others[:shorter]:  # the usual case, and quick however deep
        return shorter
    return next(place for place in range(shorter) if names[place] != others[place])


def remove(parent_fd: int, name: bytes) -> None:
    """Removes an entry, with everything below it if it is a directory; links are removed, never followed.

    Raises:
        OSError: something could not be removed. An entry that does not exist is no error.
    """
    if _remove_file(parent_fd, name):
        return
    # One descriptor and a stack: trees may be deeper than a process may have descriptors, and than Python's frames.
    fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd)
    try:
        levels = [(name, _identity(parent_fd), list_names(fd))]
        while levels:
            own_name, above, pending = levels[-1]
            if not pending:
                levels.pop()
                fd = _moved(fd, b"..")
                if _identity(fd) != above:
                    raise OSError(errno.ESTALE, "a directory was moved while it was removed")
                os.rmdir(own_name, dir_fd=fd)
                continue
            child = pending.pop()
            if not _remove_file(fd, child):
                identity = _identity(fd)
                fd = _moved(fd, child)
                levels.append((child, identity, list_names(fd)))
    finally:
        os.close(fd)


def _moved(fd: int, name: bytes) -> int:
    """Opens a directory seen from an open one, which is closed."""
    moved = os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
    os.close(fd)
    return moved


def _identity(fd: int) -> tuple[int, int]:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino


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
