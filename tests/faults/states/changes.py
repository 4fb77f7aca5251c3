"""Changes of a tree, as users make them; numbers choose what is changed, so that a test can draw them."""

from __future__ import annotations

import enum
import os
import shutil
import stat

from tests.support.trees import Seeded, append, content_of

_FOLDERS = (b"", b"a", b"a/b", b"models", b"\xff\n")
_NAMES = (b"one", b"two", b"t wo", b"3.bin", b"\xfe", b"a")
_SIZES = (0, 100, 511, 3000, 4999, 5000, 20_000, 70_000)
_SEEDS = 5


class Change(enum.Enum):
    """What can happen to a tree."""

    WRITE = "write"
    APPEND = "append"
    REWRITE_QUIETLY = "rewrite in place, with the old size and time"
    REPLACE_QUIETLY = "replace by a new file with the old size and time"
    RENAME = "rename"
    DELETE = "delete"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    MAKE_FOLDER = "make a folder"
    MAKE_PIPE = "make a pipe"
    MODE = "mode"
    OWNER = "owner"
    TIME = "time"
    ATTRIBUTE = "extended attribute"


QUIET = (Change.REWRITE_QUIETLY, Change.REPLACE_QUIETLY)
"""Changes that size and time do not tell."""


class Tree:
    """A folder whose content changes.

    Args:
        root: an existing folder.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root

    def change(self, change: Change, first: int, second: int) -> bool:
        """Makes a change; says whether there was anything to change.

        Args:
            first: chooses what is changed.
            second: chooses into what.
        """
        if change in (Change.WRITE, Change.MAKE_FOLDER, Change.MAKE_PIPE, Change.SYMLINK):
            self._make(change, self._clear_path(first), second)
            return True
        found = self._chosen(change, first)
        if found is None:
            return False
        if change in (Change.RENAME, Change.HARD_LINK):
            return self._name(change, found, second)
        self._alter(change, found, second)
        return True

    def paths(self) -> list[bytes]:
        """Returns the paths of all that is there, in order."""
        return sorted(
            os.path.relpath(os.path.join(folder, name), self.root)
            for folder, folders, files in os.walk(self.root)
            for name in folders + files
        )

    def _clear_path(self, number: int) -> bytes:
        """Returns a path that is free now, and whose folder exists."""
        folder = self.root
        for name in filter(None, _FOLDERS[number // len(_NAMES) % len(_FOLDERS)].split(b"/")):
            folder = os.path.join(folder, name)
            if not _is_folder(folder):
                _remove(folder)
                os.mkdir(folder)
        path = os.path.join(folder, _NAMES[number % len(_NAMES)])
        _remove(path)
        return path

    def _chosen(self, change: Change, number: int) -> bytes | None:
        wants_file = change in (Change.APPEND, Change.REWRITE_QUIETLY, Change.REPLACE_QUIETLY, Change.HARD_LINK)
        paths = [os.path.join(self.root, path) for path in self.paths()]
        if wants_file or change is Change.ATTRIBUTE:
            paths = [path for path in paths if stat.S_ISREG(os.lstat(path).st_mode)]
        if change is Change.MODE:
            paths = [path for path in paths if not os.path.islink(path)]
        return paths[number % len(paths)] if paths else None

    def _make(self, change: Change, path: bytes, number: int) -> None:
        if change is Change.WRITE:
            with open(path, "xb") as file:
                file.write(_content(number))
        elif change is Change.MAKE_FOLDER:
            os.mkdir(path)
        elif change is Change.MAKE_PIPE:
            os.mkfifo(path)
        else:
            os.symlink((b"one", b"a/b", b"..", b"/nowhere", b"t wo")[number % 5], path)

    def _name(self, change: Change, path: bytes, number: int) -> bool:
        folder = _FOLDERS[number // len(_NAMES) % len(_FOLDERS)]
        to = os.path.join(self.root, folder, _NAMES[number % len(_NAMES)])
        if (path + b"/").startswith(to + b"/") or (to + b"/").startswith(path + b"/"):
            return False
        to = self._clear_path(number)
        if not os.path.lexists(path):
            return False  # it stood where a folder is now
        if change is Change.RENAME:
            os.rename(path, to)
        else:
            os.link(path, to, follow_symlinks=False)
        return True

    def _alter(self, change: Change, path: bytes, number: int) -> None:
        facts = os.lstat(path)
        if change is Change.APPEND:
            append(path, b"more" * (number % 600))
        elif change is Change.REWRITE_QUIETLY:
            with open(path, "r+b") as file:
                file.write(content_of(Seeded(facts.st_size, seed=number)))
            os.utime(path, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
        elif change is Change.REPLACE_QUIETLY:
            with open(path + b"~", "xb") as file:
                file.write(content_of(Seeded(facts.st_size, seed=number)))
            os.utime(path + b"~", ns=(facts.st_mtime_ns, facts.st_mtime_ns))
            os.rename(path + b"~", path)
        elif change is Change.DELETE:
            _remove(path)
        elif change is Change.MODE:
            os.chmod(path, (0o600, 0o644, 0o755, 0o4711, 0o2770)[number % 5] | (0o700 if _is_folder(path) else 0))
        elif change is Change.OWNER:
            owner = number % 3 if os.geteuid() == 0 else -1
            os.chown(path, owner, owner, follow_symlinks=False)
        elif change is Change.TIME:
            os.utime(path, ns=(number, number * 1_000_000_007), follow_symlinks=False)
        else:
            _set_attribute(path, number)


def _content(number: int) -> bytes:
    size = _SIZES[number % len(_SIZES)]
    return content_of(Seeded(size, seed=number // len(_SIZES) % _SEEDS))


def _set_attribute(path: bytes, number: int) -> None:
    try:
        os.setxattr(path, b"user.gpusnap", b"%d" % (number % 4))
    except OSError:
        return  # not every file system in memory has them


def _is_folder(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _remove(path: bytes) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
