"""Walks a workspace and yields its entries in archive order. Reads no content, except the tag of a cache."""

from __future__ import annotations

import errno
import operator
import os
import stat
from collections.abc import Iterator

import msgspec

from agent.config.model import ScanConfig
from agent.errors import GpusnapError, LocalPermissionError, PathNotFoundError
from agent.pipeline.warnings import Warnings
from agent.pipeline.work_folder import WORK_FOLDER_PREFIX
from agent.repository.manifest_walk import SavedEntry
from agent.repository.model import Entry, EntryType
from agent.snapshot.filters import CACHE_TAG_NAME, CACHE_TAG_SIGNATURE, Filter
from agent.snapshot.parent import Parent, is_same
from agent.snapshot.sparse import extents_of, may_be_sparse

MAX_XATTR_BYTES = 1 << 20
"""Extended attributes of one entry beyond this are left out with a warning: a pack must have room for them."""

# The label of the host's own policy, set anew by the host that restores.
_SKIPPED_XATTRS = frozenset({"security.selinux"})

_NAME = operator.attrgetter("name")

_SPECIAL = {
    stat.S_IFIFO: EntryType.FIFO,
    stat.S_IFCHR: EntryType.CHARACTER_DEVICE,
    stat.S_IFBLK: EntryType.BLOCK_DEVICE,
}


Found = Entry | SavedEntry
"""What the scan finds: a new entry, or one of the parent that has not changed since."""


class Scanner:
    """One walk over one workspace. Sockets are left out: they hold nothing that could be saved.

    Args:
        root: the workspace.
        chosen: what is kept.
        config: what is told apart.
        one_file_system: whether other file systems are left out.
        warnings: told about what cannot be read.
        parent: the snapshot before, to find what has not changed since; ``None`` to find everything anew.

    Attributes:
        last_hard_link_group: the highest number of a group of hard links so far, those of the parent included.
    """

    def __init__(
        self,
        root: bytes,
        chosen: Filter,
        config: ScanConfig,
        one_file_system: bool,
        warnings: Warnings,
        parent: Parent | None = None,
    ) -> None:
        self._root = root
        self._filter = chosen
        self._leaves_out = chosen.leaves_out
        self._suffixes = tuple(suffix.encode() for suffix in config.model_suffixes)
        self._one_file_system = one_file_system
        self._warnings = warnings
        self._parent = parent
        # Names of hard-linked entries that are still to come: (device, inode) -> group, first path, names left.
        self._groups: dict[tuple[int, int], tuple[int, bytes, int]] = {}
        self.last_hard_link_group = parent.last_hard_link_group if parent is not None else 0

    def entries(self) -> Iterator[Found]:
        """Yields every entry that is kept, directories before what they hold.

        Raises:
            PathNotFoundError, LocalPermissionError: the workspace itself cannot be read.
        """
        try:
            facts = os.stat(self._root)
            children = self._children(self._root)
        except OSError as error:
            raise _unreadable_root(self._root, error) from error
        self._device = facts.st_dev
        yield self._found(b"", self._root, facts)
        # A stack and not recursion: trees may be deeper than Python's frames. With include patterns a directory is
        # held back until something below it is kept.
        stack = [(b"", [child for child in children if not child.name.startswith(WORK_FOLDER_PREFIX)])]
        held: list[Found | None] = [None]
        selects = self._filter.selects
        while stack:
            prefix, rest = stack[-1]
            if not rest:
                stack.pop()
                held.pop()
                continue
            found = rest.pop()
            entry = self._examine(prefix + found.name, found)
            if entry is None:
                continue
            is_directory = entry.type is EntryType.DIRECTORY
            is_held = selects and is_directory and not self._filter.includes(entry.path, is_directory)
            if not is_held:
                if selects:
                    yield from filter(None, held)
                    held = [None] * len(held)
                yield entry
            if is_directory:
                stack.append((entry.path + b"/", self._below(entry, found)))
                held.append(entry if is_held else None)

    def _below(self, entry: Found, found: os.DirEntry[bytes]) -> list[os.DirEntry[bytes]]:
        if self._one_file_system and found.stat(follow_symlinks=False).st_dev != self._device:
            return []
        try:
            return self._children(found.path)
        except OSError as error:
            self._unreadable(entry.path, error)
            return []

    def _children(self, path: bytes) -> list[os.DirEntry[bytes]]:
        """Returns what is in a directory, the last first: each is dropped once it was seen, with all that is cached."""
        with os.scandir(path) as found:
            children = sorted(found, key=_NAME, reverse=True)
        if self._filter.skips_tagged_caches:
            tag = [child for child in children if child.name == CACHE_TAG_NAME]
            if tag and _has_signature(path + b"/" + CACHE_TAG_NAME):
                return tag
        return children

    def _examine(self, path: bytes, found: os.DirEntry[bytes]) -> Found | None:
        try:
            # Asked before hard links are told: the first name of a group must be one that is kept.
            if self._leaves_out and not self._is_kept(path, found.is_dir(follow_symlinks=False)):
                return None
            facts = found.stat(follow_symlinks=False)
            return None if stat.S_ISSOCK(facts.st_mode) else self._found(path, found.path, facts)
        except OSError as error:
            self._unreadable(path, error)
            return None

    def _found(self, path: bytes, full: bytes, facts: os.stat_result) -> Found:
        saved = self._parent.find(path) if self._parent is not None else None
        if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
            return self._one_of_several_names(path, full, facts, saved)
        if saved is not None and self._is_untouched(saved, facts, group=0):
            return saved
        entry = self._only_name(path, full, facts)
        return saved if saved is not None and is_same(saved, entry) else entry

    def _is_untouched(self, saved: SavedEntry, facts: os.stat_result, group: int) -> bool:
        """Says whether what the parent has of an entry still says everything, its class and its group too."""
        return (
            self._parent is not None
            and self._parent.is_untouched(saved, facts)
            and saved.hard_link_group == group
            and (saved.type is not EntryType.FILE or saved.model == saved.path.lower().endswith(self._suffixes))
        )

    def _is_kept(self, path: bytes, is_directory: bool) -> bool:
        """Says whether the patterns keep an entry; a directory also for what may be below it."""
        return not self._filter.excludes(path, is_directory) and (
            is_directory or self._filter.includes(path, is_directory)
        )

    def _only_name(self, path: bytes, full: bytes, facts: os.stat_result) -> Entry:
        if stat.S_ISREG(facts.st_mode):
            return self._file(path, full, facts)
        if stat.S_ISDIR(facts.st_mode):
            return self._entry(path, full, facts, EntryType.DIRECTORY)
        if stat.S_ISLNK(facts.st_mode):
            entry = self._entry(path, full, facts, EntryType.SYMLINK)
            return msgspec.structs.replace(entry, link_target=os.readlink(full))
        entry = self._entry(path, full, facts, _SPECIAL[stat.S_IFMT(facts.st_mode)])
        major, minor = os.major(facts.st_rdev), os.minor(facts.st_rdev)
        return msgspec.structs.replace(entry, device_major=major, device_minor=minor)

    def _one_of_several_names(self, path: bytes, full: bytes, facts: os.stat_result, saved: SavedEntry | None) -> Found:
        key = (facts.st_dev, facts.st_ino)
        known = self._groups.pop(key, None)
        if known is None:
            entry = self._first_name(path, full, facts, saved)
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

    def _first_name(self, path: bytes, full: bytes, facts: os.stat_result, saved: SavedEntry | None) -> Found:
        """Only a name that could be read becomes the one that others link to."""
        is_saved_so = saved is not None and saved.hard_link_group and saved.type is not EntryType.HARD_LINK
        if saved is not None and is_saved_so and self._is_untouched(saved, facts, saved.hard_link_group):
            return saved
        entry = self._only_name(path, full, facts)
        self.last_hard_link_group += 1
        return msgspec.structs.replace(entry, hard_link_group=self.last_hard_link_group)

    def _file(self, path: bytes, full: bytes, facts: os.stat_result) -> Entry:
        size = facts.st_size
        xattrs = self._xattrs(path, full)
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
        return _with_extents(entry, full) if may_be_sparse(facts) else entry

    def _entry(self, path: bytes, full: bytes, facts: os.stat_result, kind: EntryType) -> Entry:
        xattrs = self._xattrs(path, full)
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

    def _xattrs(self, path: bytes, full: bytes) -> tuple[tuple[bytes, bytes], ...] | None:
        """Returns the attributes, or None if they are left out: the next snapshot must look, and warn, again."""
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


def _with_extents(entry: Entry, full: bytes) -> Entry:
    try:
        fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
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


def _has_signature(tag: bytes) -> bool:
    try:
        fd = os.open(tag, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(fd, len(CACHE_TAG_SIGNATURE)) == CACHE_TAG_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(fd)


def _unreadable_root(root: bytes, error: OSError) -> GpusnapError:
    shown = os.fsdecode(root)
    if isinstance(error, PermissionError):
        return LocalPermissionError(f"the workspace {shown} cannot be read: {error.strerror}")
    return PathNotFoundError(f"the workspace {shown} cannot be read: {error.strerror}")
