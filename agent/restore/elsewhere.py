"""The files of a target by what may tell that they hold some content: it may have been renamed, copied, or touched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

import msgspec

from agent.pipeline.beneath import Beneath
from agent.pipeline.work_folder import WORK_FOLDER_PREFIX
from agent.repository.model import Entry

FILES_ALIKE = 256
"""Files of one size that are remembered, or of one size, time and name: the more there are, the less it tells."""

MOST_FILES = 1 << 18
"""Files that are remembered in all, about 400 bytes each: memory stays bounded however large the target is."""


class Found(msgspec.Struct, frozen=True, gc=False):
    """A regular file of the target."""

    path: bytes
    mtime_ns: int


class Elsewhere:
    """Goes through a target once and remembers its files. Whatever it returns is to be verified before it is used.

    Args:
        check: called for each folder; raises when all shall stop.
    """

    def __init__(self, root_fd: int, check: Callable[[], None]) -> None:
        self._by_size: dict[int, list[Found]] = {}
        self._by_name: dict[int, list[Found]] = {}
        self._left = MOST_FILES
        folders = [b""]
        with Beneath(root_fd) as beneath:
            while folders and self._left > 0:
                check()
                folder = folders.pop()
                # What cannot be listed holds nothing that can be used.
                with contextlib.suppress(OSError), os.scandir(beneath.directory(folder)) as entries:
                    self._see(folder, entries, folders)

    def like(self, entry: Entry) -> bytes | None:
        """Returns the path of the file that is the likeliest to hold an entry's content; None if there is none."""
        _, _, name = entry.path.rpartition(b"/")
        found = self._by_name.get(hash((entry.size, entry.mtime_ns, name))) or self._by_size.get(entry.size)
        if not found:
            return None
        if len(found) == FILES_ALIKE:
            # There may be more that were not remembered.
            return entry.path
        return max(found, key=lambda file: _likeness(file, entry)).path

    def of_size(self, entry: Entry) -> list[bytes]:
        """Returns the paths of the files that have an entry's size, the likeliest first."""
        found = self._by_size.get(entry.size, ())
        return [file.path for file in sorted(found, key=lambda file: _likeness(file, entry), reverse=True)]

    def _see(self, folder: bytes, entries: Iterable[os.DirEntry[str]], folders: list[bytes]) -> None:
        """Remembers the files of a folder, and adds the folders in it to those that are to be gone through."""
        for item in entries:
            name = os.fsencode(item.name)
            if name.startswith(WORK_FOLDER_PREFIX):
                continue
            path = folder + b"/" + name if folder else name
            if item.is_dir(follow_symlinks=False):
                folders.append(path)
            elif item.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    facts = item.stat(follow_symlinks=False)
                    self._remember(Found(path, facts.st_mtime_ns), facts.st_size, name)

    def _remember(self, file: Found, size: int, name: bytes) -> None:
        self._left -= 1
        for found in (
            self._by_size.setdefault(size, []),
            self._by_name.setdefault(hash((size, file.mtime_ns, name)), []),
        ):
            if len(found) < FILES_ALIKE:
                found.append(file)


def _likeness(file: Found, entry: Entry) -> tuple[bool, int]:
    return file.mtime_ns == entry.mtime_ns, common_end(file.path, entry.path)


def common_end(path: bytes, other: bytes) -> int:
    """Returns how many components two paths end with alike."""
    count = 0
    for one, another in zip(reversed(path.split(b"/")), reversed(other.split(b"/")), strict=False):
        if one != another:
            break
        count += 1
    return count
