"""Builds whole directories in the work folder, and gives each its place, with everything in it, by one rename."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

import msgspec

from agent.pipeline.beneath import DIRECTORY_FLAGS, remove
from agent.repository.model import Entry, EntryType
from agent.restore.metadata import Metadata
from agent.restore.write_errors import cannot_write
from agent.restore.writer import TreePlace, Writer

Done = Callable[[list[int] | None], None]
"""Gets the places of the directories of a tree that have their metadata; ``None`` if the tree could not be put in its
place as a whole, and nothing was written."""

_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


class _Level(msgspec.Struct):
    """An open directory of the tree; whether its metadata may be set once all its entries are made."""

    place: int
    entry: Entry
    fd: int
    is_final: bool


class TreeWriter:
    """Writes trees into a fresh target. One per thread.

    Nothing in a tree can be seen under its final path before all of it is there, so its files need no temporary names.

    Args:
        writer: makes the entries.
        metadata: gives directories theirs.
        check: called often; raises when all shall stop.
    """

    def __init__(self, writer: Writer, metadata: Metadata, check: Callable[[], None]) -> None:
        self._writer = writer
        self._metadata = metadata
        self._check = check
        self._is_root = os.geteuid() == 0

    def write(self, run: Sequence[Entry], tree: range, raw: memoryview, done: Done) -> None:
        """Writes a tree; it is done once all its files are whole, at the latest with ``Writer.finish``.

        Args:
            run: entries in archive order.
            tree: the places of the tree's entries in it, as ``whole_trees`` gives them.
            raw: the pack, which must stay until then.
            done: called then.

        Raises:
            GpusnapError: an entry cannot be written; the message names it.
        """
        top = run[tree.start]
        levels: list[_Level] = []
        try:
            place = self._writer.tree_place(top.path)
            if place is None:
                done(None)
                return
            try:
                levels.append(self._enter(place.work_fd, place.temporary, tree.start, top))
                finished = self._fill(run, tree, raw, levels)
            except BaseException:
                _close(place, levels)
                raise
        except OSError as error:
            raise cannot_write(top, error) from error

        def move(is_whole: bool) -> None:
            try:
                if not is_whole:
                    return
                is_moved = _move(place)
                if is_moved:
                    # Only now: on some file systems a move changes the time of what is moved.
                    self._leave(levels, finished)
            except OSError as error:
                raise cannot_write(top, error) from error
            finally:
                _close(place, levels)
            done(finished if is_moved else None)

        self._writer.then(move)

    def _fill(self, run: Sequence[Entry], tree: range, raw: memoryview, levels: list[_Level]) -> list[int]:
        """Makes everything below the topmost directory."""
        finished: list[int] = []
        for place in tree[1:]:
            self._check()
            entry = run[place]
            directory, _, name = entry.path.rpartition(b"/")
            try:
                while levels[-1].entry.path != directory:
                    self._leave(levels, finished)
                above = levels[-1]
                if entry.type is EntryType.DIRECTORY:
                    levels.append(self._enter(above.fd, name, place, entry))
                elif entry.type is EntryType.HARD_LINK:
                    above.is_final = False  # made in the end, which changes the time of the directory
                else:
                    content = raw[entry.data_offset : entry.data_offset + entry.data_size]
                    self._writer.create(above.fd, name, entry, content, is_ours=True)
            except OSError as error:
                raise cannot_write(entry, error) from error
        while len(levels) > 1:
            self._leave(levels, finished)
        return finished

    def _enter(self, parent_fd: int, name: bytes, place: int, entry: Entry) -> _Level:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        # One that we may not enter then would shut out whoever does a pack again.
        is_final = self._is_root or entry.mode & 0o700 == 0o700
        return _Level(place, entry, os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd), is_final)

    def _leave(self, levels: list[_Level], finished: list[int]) -> None:
        level = levels[-1]
        if level.is_final:
            self._metadata.apply(level.fd, level.entry, is_ours=True)
            finished.append(level.place)
        os.close(levels.pop().fd)


def _close(place: TreePlace, levels: Sequence[_Level]) -> None:
    for level in levels:
        os.close(level.fd)
    os.close(place.parent_fd)


def _move(place: TreePlace) -> bool:
    """Gives a tree its place; says no, and removes it, if something is there."""
    try:
        os.rename(place.temporary, place.name, src_dir_fd=place.work_fd, dst_dir_fd=place.parent_fd)
        return True
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
    remove(place.work_fd, place.temporary)
    return False
