"""The files of a target by what may tell that they hold some content: it may have been renamed, copied, or touched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import msgspec

from agent.pipeline.beneath import Beneath
from agent.pipeline.work_folder import WORK_FOLDER_PREFIX
from agent.repository.model import Entry

SAME_KIND = 256
"""Files that are remembered of one size and name, of one size and time, or of one size: more tell little."""

MOST_PLACES = 1 << 17
"""Files and folders that are remembered in all, about half a KiB each: memory is bounded however large the target."""

_CHECK_EVERY = 1024


class Found(msgspec.Struct, frozen=True, gc=False):
    """A regular file of the target."""

    path: bytes
    mtime_ns: int


class Elsewhere:
    """Goes through a target once and remembers its files. Whatever it returns is to be verified before it is used.

    File systems that are mounted inside are left alone.

    Args:
        sizes: those of the large files that are looked for.
        check: called often; raises when all shall stop.
    """

    def __init__(self, root_fd: int, sizes: Container[int], check: Callable[[], None]) -> None:
        self._sizes = sizes
        self._by_size: dict[int, list[Found]] = {}
        # By hashes: two that are equal by chance do no harm.
        self._by_name: dict[int, list[Found]] = {}
        self._by_time: dict[int, list[Found]] = {}
        self._left = MOST_PLACES
        device = os.fstat(root_fd).st_dev
        folders = [b""]
        with Beneath(root_fd) as beneath:
            while folders and self._left > 0:
                folder = folders.pop()
                # What cannot be listed holds nothing that can be used.
                with contextlib.suppress(OSError):
                    fd = beneath.directory(folder)
                    if os.fstat(fd).st_dev == device:
                        with os.scandir(fd) as entries:
                            self._see(folder, entries, folders, check)

    def guess(self, entry: Entry) -> bytes | None:
        """Returns the path of the file that is the likeliest to hold a small file's content.

        None if no file of its size has its time or its name as well.
        """
        named = _likeliest(self._by_name.get(_named(entry.size, entry.path.rpartition(b"/")[2]), ()), entry)
        if named is not None and named.mtime_ns == entry.mtime_ns:
            return named.path
        found = _likeliest(self._by_time.get(_timed(entry.size, entry.mtime_ns), ()), entry) or named
        return None if found is None else found.path

    def candidates(self, entry: Entry) -> Iterator[bytes]:
        """Yields the paths of the files that may hold a large file's content, the likeliest first."""
        seen: set[bytes] = set()
        for found in (
            self._by_name.get(_named(entry.size, entry.path.rpartition(b"/")[2]), ()),
            self._by_time.get(_timed(entry.size, entry.mtime_ns), ()),
            self._by_size.get(entry.size, ()),
        ):
            for file in sorted(found, key=lambda file: _likeness(file, entry), reverse=True):
                if file.path not in seen:
                    seen.add(file.path)
                    yield file.path

    def _see(
        self, folder: bytes, entries: Iterable[os.DirEntry[str]], folders: list[bytes], check: Callable[[], None]
    ) -> None:
        """Remembers the files of a folder, and adds the folders in it to those that are to be gone through."""
        check()
        for item in entries:
            if self._left % _CHECK_EVERY == 0:
                check()
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
            else:
                continue
            self._left -= 1
            if self._left <= 0:
                return

    def _remember(self, file: Found, size: int, name: bytes) -> None:
        lists = [
            self._by_name.setdefault(_named(size, name), []),
            self._by_time.setdefault(_timed(size, file.mtime_ns), []),
        ]
        if size in self._sizes:
            lists.append(self._by_size.setdefault(size, []))
        for found in lists:
            if len(found) < SAME_KIND:
                found.append(file)


def _named(size: int, name: bytes) -> int:
    return hash((size, name))


def _timed(size: int, mtime_ns: int) -> int:
    return hash((size, mtime_ns))


def _likeliest(found: Sequence[Found], entry: Entry) -> Found | None:
    if len(found) < 2:
        return found[0] if found else None
    return max(found, key=lambda file: _likeness(file, entry))


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
