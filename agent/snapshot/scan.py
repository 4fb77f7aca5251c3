"""Walks a workspace and yields its entries in archive order. Reads no content, except the tag of a cache.

Everything is looked at from the descriptor of the directory that holds it, and no link is followed: whoever swaps
folders for links meanwhile gets nothing from outside into a snapshot.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from agent.config.model import ScanConfig
from agent.pipeline.beneath import Beneath
from agent.pipeline.local_errors import local_errors
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_walk import SavedEntry
from agent.repository.model import Entry, EntryType
from agent.snapshot.filters import Filter
from agent.snapshot.listing import list_directory
from agent.snapshot.look_ahead import LookAhead
from agent.snapshot.parent import Parent, is_same
from agent.snapshot.seen import Facts, Status
from agent.snapshot.source import open_regular
from agent.snapshot.sparse import extents_of, may_be_sparse

MAX_XATTR_BYTES = 1 << 20
"""Extended attributes of one entry beyond this are left out with a warning: a pack must have room for them."""

MAX_PATH_BYTES = 4095
"""What has a longer path is left out with a warning: the kernel takes none, so hardly any tool could restore it."""

# The label of the host's own policy, set anew by the host that restores.
_SKIPPED_XATTRS = frozenset({"security.selinux"})

_SPECIAL = {
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFCHR: EntryType.CHARACTER_DEVICE,
    stat.S_IFBLK: EntryType.BLOCK_DEVICE,
}


AT_ONCE = 256
"""Entries of a directory that are looked at before the first of them is handed on."""

Found = Entry | SavedEntry
"""What the scan finds: a new entry, or one of the parent that has not changed since."""


class _Place(NamedTuple):
    """Where something is: a name in an open directory."""

    fd: int
    name: bytes


class _Folder(NamedTuple):
    """A directory that the walk comes to."""

    path: bytes
    device: int


class _Level(NamedTuple):
    """What is still to be seen of one directory.

    Attributes:
        path: the directory; empty for the workspace.
        prefix: what the paths of all that it holds begin with.
        names: what is in it, the last first.
        folders: which of the names are directories, if a filter will ask.
        facts: what was seen of the names ahead of the scan, in their order; empty if nothing was.
    """

    path: bytes
    prefix: bytes
    names: list[bytes]
    folders: frozenset[bytes]
    facts: list[Facts | None]


class Scanner:
    """One walk over one workspace. Sockets are left out: they hold nothing that could be saved.

    Args:
        root_fd: the workspace, open until the walk ends.
        chosen: what is kept.
        config: what is told apart.
        one_file_system: whether other file systems are left out.
        warnings: told about what cannot be read.
        parent: the snapshot before, to find what has not changed since; ``None`` to find everything anew.
        ahead: what was seen before the scan comes to it, which is enough to find what has not changed.

    Attributes:
        last_hard_link_group: the highest number of a group of hard links so far, those of the parent included.
    """

    def __init__(
        self,
        root_fd: int,
        chosen: Filter,
        config: ScanConfig,
        one_file_system: bool,
        warnings: Warnings,
        parent: Parent | None = None,
        ahead: LookAhead | None = None,
    ) -> None:
        self._root_fd = root_fd
        self._beneath = Beneath(root_fd)
        self._filter = chosen
        self._leaves_out = chosen.leaves_out
        self._suffixes = config.suffixes
        self._one_file_system = one_file_system
        self._warnings = warnings
        self._ahead = ahead if parent is not None else None
        self._find = parent.find if parent is not None else _find_nothing
        self._is_untouched = parent.is_untouched if parent is not None else _is_never_untouched
        # Names of hard-linked entries that are still to come: (device, inode) -> group, first path, names left.
        self._groups: dict[tuple[int, int], tuple[int, bytes, int]] = {}
        self.last_hard_link_group = parent.last_hard_link_group if parent is not None else 0

    def entries(self) -> Iterator[Found]:
        """Returns every entry that is kept, directories before what they hold.

        Raises:
            LocalIoError, LocalPermissionError: the workspace itself cannot be read.
        """
        with local_errors("the workspace cannot be read"):
            facts = os.fstat(self._root_fd)
            top = self._level(b"")
            found = self._found(b"", _Place(self._root_fd, b"."), facts, self._find(b""))
        self._device = facts.st_dev
        return itertools.chain([found], self._below(top))

    def _below(self, top: _Level) -> Iterator[Found]:
        # A stack and not recursion: trees may be deeper than Python's frames. With include patterns a directory is
        # held back until something below it is kept.
        stack = [top]
        held: list[Found | None] = [None]
        with self._beneath:
            while stack:
                level = stack[-1]
                found, folder = self._next_found(level)
                is_held = folder is not None and not self._filter.includes(folder.path, is_directory=True)
                last = found.pop() if is_held else None
                if found and self._filter.selects:
                    yield from filter(None, held)
                    held = [None] * len(held)
                yield from found
                if folder is not None and not (self._one_file_system and folder.device != self._device):
                    try:
                        stack.append(self._level(folder.path))
                        held.append(last)
                    except OSError as error:
                        self._unreadable(folder.path, error)
                elif not level.names:
                    stack.pop()
                    held.pop()

    def _level(self, path: bytes) -> _Level:
        seen = self._ahead.directory(path) if self._ahead is not None else None
        if seen is not None:
            names, folders, facts = seen.listing.names, seen.listing.folders, seen.facts
        else:
            listing = list_directory(self._beneath.directory(path), path, self._filter)
            names, folders, facts = listing.names, listing.folders, []
        return _Level(path, path + b"/" if path else b"", names, folders, facts)

    def _next_found(self, level: _Level) -> tuple[list[Found], _Folder | None]:
        """Looks at what comes next in a directory: up to the first directory in it, which is the last found then."""
        found: list[Found] = []
        # Every entry comes by here, and of most nothing has changed: what is asked for each time is bound once.
        prefix, names, facts, leaves_out = level.prefix, level.names, level.facts, self._leaves_out
        find, is_untouched = self._find, self._is_untouched
        for _ in range(min(len(names), AT_ONCE)):
            name = names.pop()
            path = prefix + name
            status: Status | None = facts.pop() if facts else None
            try:
                # Asked before hard links are told: the first name of a group must be one that is kept.
                if leaves_out and not self._filter.keeps(path, name in level.folders):
                    continue
                if len(path) > MAX_PATH_BYTES:
                    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
                saved = find(path)
                if saved is not None and status is not None and _is_alone(status) and is_untouched(saved, status, 0):
                    found.append(saved)
                else:
                    # Only what has not changed since may have been seen a while ago.
                    fd = self._beneath.directory(level.path)
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if not stat.S_ISSOCK(status.st_mode):
                        found.append(self._found(path, _Place(fd, name), status, saved))
                if stat.S_ISDIR(status.st_mode):
                    return found, _Folder(path, status.st_dev)
            except OSError as error:
                self._unreadable(path, error)
        return found, None

    def _found(self, path: bytes, place: _Place, facts: os.stat_result, saved: SavedEntry | None) -> Found:
        if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
            return self._one_of_several_names(path, place, facts, saved)
        if saved is not None and self._is_untouched(saved, facts, 0):
            return saved
        entry = self._only_name(path, place, facts)
        return saved if saved is not None and is_same(saved, entry) else entry

    def _only_name(self, path: bytes, place: _Place, facts: os.stat_result) -> Entry:
        if stat.S_ISREG(facts.st_mode):
            return self._file(path, place, facts)
        if stat.S_ISDIR(facts.st_mode):
            return self._entry(path, place, facts, EntryType.DIRECTORY)
        if stat.S_ISLNK(facts.st_mode):
            entry = self._entry(path, place, facts, EntryType.SYMLINK)
            return msgspec.structs.replace(entry, link_target=os.readlink(place.name, dir_fd=place.fd))
        entry = self._entry(path, place, facts, _SPECIAL[stat.S_IFMT(facts.st_mode)])
        major, minor = os.major(facts.st_rdev), os.minor(facts.st_rdev)
        return msgspec.structs.replace(entry, device_major=major, device_minor=minor)

    def _one_of_several_names(
        self, path: bytes, place: _Place, facts: os.stat_result, saved: SavedEntry | None
    ) -> Found:
        key = (facts.st_dev, facts.st_ino)
        known = self._groups.pop(key, None)
        if known is None:
            entry = self._first_name(path, place, facts, saved)
            self._groups[key] = (entry.hard_link_group, path, facts.st_nlink - 1)
            return entry
        group, first, left = known
        if left > 1:
            self._groups[key] = (group, first, left - 1)
        is_saved_so = saved is not None and saved.type is EntryType.HARD_LINK and saved.link_target == first
        if saved is not None and is_saved_so and self._is_untouched(saved, facts, group):
            return saved
        return Entry(
            path=path,
            type=EntryType.HARD_LINK,
            mode=facts.st_mode & 0o7777,
            uid=facts.st_uid,
            gid=facts.st_gid,
            mtime_ns=facts.st_mtime_ns,
            link_target=first,
            hard_link_group=group,
            ctime_ns=facts.st_ctime_ns,
            inode=facts.st_ino,
            device=facts.st_dev,
        )

    def _first_name(self, path: bytes, place: _Place, facts: os.stat_result, saved: SavedEntry | None) -> Found:
        """Only a name that could be read becomes the one that others link to."""
        is_saved_so = saved is not None and saved.hard_link_group and saved.type is not EntryType.HARD_LINK
        if saved is not None and is_saved_so and self._is_untouched(saved, facts, saved.hard_link_group):
            return saved
        entry = self._only_name(path, place, facts)
        self.last_hard_link_group += 1
        return msgspec.structs.replace(entry, hard_link_group=self.last_hard_link_group)

    def _file(self, path: bytes, place: _Place, facts: os.stat_result) -> Entry:
        size = facts.st_size
        xattrs = self._xattrs(path, place)
        entry = Entry(
            path=path,
            type=EntryType.FILE,
            mode=facts.st_mode & 0o7777,
            uid=facts.st_uid,
            gid=facts.st_gid,
            mtime_ns=facts.st_mtime_ns,
            size=size,
            xattrs=xattrs or (),
            data_size=size,
            model=path.lower().endswith(self._suffixes),
            ctime_ns=facts.st_ctime_ns,
            inode=facts.st_ino,
            device=facts.st_dev if xattrs is not None else 0,
        )
        return _with_extents(entry, place) if may_be_sparse(facts) else entry

    def _entry(self, path: bytes, place: _Place, facts: os.stat_result, kind: EntryType) -> Entry:
        xattrs = self._xattrs(path, place)
        return Entry(
            path=path,
            type=kind,
            mode=facts.st_mode & 0o7777,
            uid=facts.st_uid,
            gid=facts.st_gid,
            mtime_ns=facts.st_mtime_ns,
            xattrs=xattrs or (),
            ctime_ns=facts.st_ctime_ns,
            inode=facts.st_ino,
            device=facts.st_dev if xattrs is not None else 0,
        )

    def _xattrs(self, path: bytes, place: _Place) -> tuple[tuple[bytes, bytes], ...] | None:
        """Returns the attributes, or None if they are left out: the next snapshot must look, and warn, again."""
        # There is no call for a name in a directory, and to open it may block or act (a FIFO, a device). On the way
        # by /proc, which is always there on Linux, nothing but the descriptor's own directory is passed.
        full = b"/proc/self/fd/%d/%s" % place
        try:
            names = os.listxattr(full, follow_symlinks=False)
            if not names:
                return ()
            pairs = [
                (os.fsencode(name), os.getxattr(full, name, follow_symlinks=False))
                for name in sorted(names)
                if name not in _SKIPPED_XATTRS
            ]
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA):
                raise
            return ()
        if sum(len(name) + len(value) for name, value in pairs) > MAX_XATTR_BYTES:
            self._warnings.add("XATTRS_TOO_LARGE", "extended attributes of over 1 MiB were left out", path)
            return None
        return tuple(pairs)

    def _unreadable(self, path: bytes, error: OSError) -> None:
        if error.errno == errno.ENOENT:
            self._warnings.add("FILE_VANISHED", "vanished while the snapshot was made; not saved", path)
        else:
            self._warnings.add("FILE_UNREADABLE", f"could not be read and was not saved: {error.strerror}", path)


def _with_extents(entry: Entry, place: _Place) -> Entry:
    try:
        fd = open_regular(place.fd, place.name)
    except OSError:
        # Reading it later fails likewise, and says so.
        return entry
    try:
        extents = extents_of(fd, entry.size)
    finally:
        os.close(fd)
    if extents is None:
        return entry
    data_size = sum(extent.length for extent in extents)
    return msgspec.structs.replace(entry, sparse=True, extents=extents, data_size=data_size)


def _is_alone(status: Status) -> bool:
    """Says whether what was seen has one name, as far as names can be linked."""
    return status.st_nlink == 1 or stat.S_ISDIR(status.st_mode)


def _find_nothing(path: bytes) -> SavedEntry | None:
    """What there is of any path without a parent."""
    return None


def _is_never_untouched(saved: SavedEntry, status: Status, group: int) -> bool:
    """What there is to say of any entry without a parent."""
    return False
