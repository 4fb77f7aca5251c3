"""Owner, mode, extended attributes and times. What may not be set is a warning that names the file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from agent.pipeline.warnings import Warnings
from agent.repository.model import Entry

_ACL_PREFIX = b"system.posix_acl_"
_USER_PREFIX = b"user."
_PRIVILEGED_BITS = 0o6000
_OF_THE_HOST = frozenset({"security.selinux"})


class Metadata:
    """Applies the metadata of entries. May be used from several threads at once."""

    def __init__(self, warnings: Warnings) -> None:
        self._warnings = warnings
        self._uid = os.geteuid()
        self._gid = os.getegid()
        self._not_at_creation = 0o7000 | _umask()

    def mode_at_creation(self, entry: Entry) -> int | None:
        """Returns the mode that a file can be made with where nobody else can enter.

        ``None`` if it must be set later: there is an owner or are attributes to set before, or the umask forbids it.
        """
        is_plain = entry.uid == self._uid and entry.gid == self._gid and not entry.xattrs
        return entry.mode if is_plain and not entry.mode & self._not_at_creation else None

    def apply(self, fd: int, entry: Entry, is_ours: bool, has_mode: bool = False) -> None:
        """Applies everything to an open file or directory. The times come last.

        Args:
            is_ours: it was made by this process in a folder that hands no group on, so its owner is known.
            has_mode: it was made with its mode, as ``mode_at_creation`` says.
        """
        if not has_mode:
            # chown clears set-id bits and capabilities, a mode changes an ACL, and a read-only mode forbids attributes.
            mode = self._own(entry, is_ours, lambda uid, gid: os.chown(fd, uid, gid))
            if entry.xattrs:
                self._set_xattrs(fd, entry, is_acl=False)
            os.fchmod(fd, mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry, is_acl=True)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def apply_to_kept(self, fd: int, entry: Entry) -> None:
        """Applies everything to a file or directory that was there before and stays.

        Raises:
            PermissionError: it belongs to someone else.
        """
        _remove_xattrs(fd, (_ACL_PREFIX, _USER_PREFIX), frozenset(name for name, _ in entry.xattrs))
        self.apply(fd, entry, is_ours=False)

    def apply_to_directory(self, fd: int, entry: Entry) -> None:
        """Applies everything to a directory, which may have been there before and belong to someone else."""
        try:
            self.apply_to_kept(fd, entry)
        except PermissionError:
            message = "the directory belongs to another user: its mode and times could not be restored"
            self._warnings.add("METADATA_NOT_RESTORED", message, entry.path)

    def apply_to_name(self, folder_fd: int, name: bytes, entry: Entry, is_link: bool) -> None:
        """Applies everything to what cannot be opened (links, devices), in a folder that only we can write to."""
        mode = self._own(
            entry, True, lambda uid, gid: os.chown(name, uid, gid, dir_fd=folder_fd, follow_symlinks=False)
        )
        if not is_link:
            os.chmod(name, mode, dir_fd=folder_fd)
        if entry.xattrs:
            place = b"/proc/self/fd/%d/%s" % (folder_fd, name)
            self._set_xattrs(place, entry, is_acl=False)
            self._set_xattrs(place, entry, is_acl=True)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=folder_fd, follow_symlinks=False)

    def _own(self, entry: Entry, is_ours: bool, chown: Callable[[int, int], None]) -> int:
        """Sets the owner and returns the mode that may be set then."""
        if is_ours and entry.uid == self._uid and entry.gid == self._gid:
            return entry.mode
        try:
            chown(entry.uid, entry.gid)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
            # Set-id bits with another owner would hand out that owner's rights.
            message = "the owner could not be restored without privilege; set-id bits were left out"
            self._warnings.add("OWNER_NOT_RESTORED", message, entry.path)
            return entry.mode & ~_PRIVILEGED_BITS
        return entry.mode

    def _set_xattrs(self, place: int | bytes, entry: Entry, is_acl: bool) -> None:
        for name, value in entry.xattrs:
            if name.startswith(_ACL_PREFIX) is not is_acl:
                continue
            try:
                if isinstance(place, int):
                    os.setxattr(place, name, value)
                else:
                    os.setxattr(place, name, value, follow_symlinks=False)
            except OSError as error:
                # A file system that is full, or one that has no room for attributes of this size?
                if error.errno == errno.EIO or (error.errno in (errno.ENOSPC, errno.EDQUOT) and _is_full(place)):
                    raise
                message = f"extended attributes such as {name.decode(errors='replace')} could not be restored"
                self._warnings.add("XATTR_NOT_RESTORED", message, entry.path)


def xattrs_of(place: bytes) -> dict[bytes, bytes]:
    """Returns the extended attributes that snapshots save; of a symbolic link its own.

    Raises:
        OSError: they cannot be read.
    """
    try:
        names = os.listxattr(place, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return {}
    return {
        os.fsencode(name): os.getxattr(place, name, follow_symlinks=False) for name in names if name not in _OF_THE_HOST
    }


def remove_acls(fd: int) -> None:
    """Removes the ACLs that a new directory took over from the one above it."""
    _remove_xattrs(fd, (_ACL_PREFIX,), frozenset())


def _remove_xattrs(fd: int, prefixes: tuple[bytes, ...], kept: frozenset[bytes]) -> None:
    try:
        names = [os.fsencode(name) for name in os.listxattr(fd)]
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for name in names:
        if name.startswith(prefixes) and name not in kept:
            os.removexattr(fd, name)


def _umask() -> int:
    """Returns the bits that new files do not get: all of them if nobody says."""
    try:
        with open("/proc/self/status", "rb") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith(b"Umask:"))
    except (OSError, StopIteration):
        return 0o777


def _is_full(place: int | bytes) -> bool:
    facts = os.statvfs(place if isinstance(place, int) else os.path.dirname(place))
    return facts.f_bavail == 0
