"""The folder that is restored into: checked before anything is written, and left clean."""

from __future__ import annotations

import os

import msgspec

from agent.errors import NoSpaceError, NotADirectoryPathError, TargetNotEmptyError
from agent.pipeline.beneath import DIRECTORY_FLAGS, list_names, remove
from agent.pipeline.local_errors import local_errors
from agent.pipeline.work_folder import UNFINISHED_PREFIX, WORK_FOLDER_PREFIX, work_folder
from agent.restore.kept import trim
from agent.restore.metadata import remove_acls
from agent.restore.origin import FILE_NAME as ORIGIN_FILE
from agent.restore.origin import Origin, read_origin, this_boot, write_origin
from agent.restore.request import IfNotEmpty, RestoreRequest

# What a fresh file system has at its top.
_NOT_COUNTED = frozenset({b"lost+found"})


class Folders(msgspec.Struct, frozen=True):
    """Descriptors of a target and of its work folder."""

    root_fd: int
    work_fd: int


class Target:
    """An open target with a work folder for unfinished files.

    Attributes:
        root_fd: a descriptor of the target.
        was_empty: whether nothing was there before.
        has_taken_over: whether there are unfinished files of a killed restore of the same snapshot.
        times_are_sure: whether the size and the time of a file say that its content is there, too.
    """

    def __init__(self, path: bytes, work_name: bytes, made: list[bytes]) -> None:
        self.path = path
        self._work_name = work_name
        self._made = made
        with local_errors(f"the target {os.fsdecode(path)} cannot be opened"):
            self.root_fd = os.open(path, DIRECTORY_FLAGS)
        try:
            self.names = [name for name in list_names(self.root_fd) if is_counted(name)]
        except BaseException:
            os.close(self.root_fd)
            raise
        self.was_empty = not self.names
        self.has_taken_over = False
        self.times_are_sure = True
        self._work_fd = -1

    @property
    def folders(self) -> Folders:
        """What is written into, from ``begin`` to ``end_work``."""
        return Folders(self.root_fd, self._work_fd)

    def begin(self, snapshot: str) -> None:
        """Takes over the work folder of a killed restore of this snapshot, or makes one; removes those of others."""
        with local_errors(f"the target {os.fsdecode(self.path)} cannot be written"):
            left = [name for name in list_names(self.root_fd) if name.startswith(WORK_FOLDER_PREFIX)]
            origins = {name: origin for name in left if (origin := self._origin_of(name)) is not None}
            boot = this_boot()
            # One that does not say may be of a run of the kernel whose last writes are gone.
            self.times_are_sure = all(name in origins and origins[name].boot == boot for name in left)
            same = [name for name, origin in origins.items() if origin.snapshot == snapshot]
            if same:
                self._take_over(self._work_name if self._work_name in same else same[0])
            else:
                remove(self.root_fd, self._work_name)
                self._make_work_folder()
            if not same or not self.times_are_sure:
                remove(self._work_fd, ORIGIN_FILE)
                write_origin(self._work_fd, Origin(snapshot, boot if self.times_are_sure else ""))
            # Last, as they too may be what knows that times are not sure.
            for name in left:
                if name != self._work_name:
                    remove(self.root_fd, name)

    def _origin_of(self, name: bytes) -> Origin | None:
        """Returns where a work folder comes from; None if nothing says, or others may have written it."""
        try:
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=self.root_fd)
        except (NotADirectoryError, FileNotFoundError, PermissionError):
            return None
        try:
            facts = os.fstat(fd)
            is_ours = facts.st_uid == os.geteuid() and not facts.st_mode & 0o077
            return read_origin(fd) if is_ours else None
        finally:
            os.close(fd)

    def _take_over(self, name: bytes) -> None:
        if name != self._work_name:
            remove(self.root_fd, self._work_name)
        os.rename(name, self._work_name, src_dir_fd=self.root_fd, dst_dir_fd=self.root_fd)
        self._work_fd = os.open(self._work_name, DIRECTORY_FLAGS, dir_fd=self.root_fd)
        self.has_taken_over = True
        for item in list_names(self._work_fd):
            if item != ORIGIN_FILE and not item.startswith(UNFINISHED_PREFIX):
                remove(self._work_fd, item)

    def _make_work_folder(self) -> None:
        os.mkdir(self._work_name, 0o700, dir_fd=self.root_fd)
        self._work_fd = os.open(self._work_name, DIRECTORY_FLAGS, dir_fd=self.root_fd)
        # A set-group-id target would hand its group on to every file made here, and a default ACL itself.
        os.fchmod(self._work_fd, 0o700)
        remove_acls(self._work_fd)

    def end_work(self) -> None:
        """Removes the work folder; further calls do nothing."""
        if self._work_fd >= 0:
            os.close(self._work_fd)
            self._work_fd = -1
            remove(self.root_fd, self._work_name)

    def close(self, succeeded: bool, is_kept: bool = False) -> None:
        """Removes the work folder; after a failure also folders that were made for the target and are still empty.

        Args:
            succeeded: whether the restore did.
            is_kept: leave large files that the next restore can go on with, and what says where they come from.
        """
        if is_kept and self._work_fd >= 0 and trim(self._work_fd):
            os.close(self._work_fd)
        else:
            self.end_work()
        os.close(self.root_fd)
        for made in [] if succeeded else reversed(self._made):
            try:
                os.rmdir(made)
            except OSError:
                break

    def require_room(self, content_bytes: int, entries: int) -> None:
        """Makes sure that an empty target has room for what will be written.

        Raises:
            NoSpaceError: it has not; the message says how much is missing.
        """
        facts = os.fstatvfs(self.root_fd)
        free = facts.f_frsize * (facts.f_bfree if os.geteuid() == 0 else facts.f_bavail)
        shown = os.fsdecode(self.path)
        if content_bytes > free:
            raise NoSpaceError(f"{shown} has {free} bytes free, and the restore needs {content_bytes}")
        if facts.f_files and entries > facts.f_ffree:
            raise NoSpaceError(f"{shown} has room for {facts.f_ffree} more files, and the restore needs {entries}")


def open_target(request: RestoreRequest) -> Target:
    """Opens the target, making it when missing; an existing one is not changed yet.

    Raises:
        NotADirectoryPathError: it is something else than a directory.
        TargetNotEmptyError: it is not empty, and the request says to fail then.
        LocalPermissionError, LocalIoError, NoSpaceError: it cannot be made or opened.
    """
    shown = os.fsdecode(request.target)
    if os.path.lexists(request.target) and not os.path.isdir(request.target):
        raise NotADirectoryPathError(f"the target {shown} is not a directory")
    with local_errors(f"the target {shown} cannot be made"):
        made = _make_folders(request.target)
    target = Target(request.target, work_folder(request.operation), made)
    if not target.was_empty and request.if_not_empty is IfNotEmpty.FAIL:
        first = os.fsdecode(target.names[0])
        target.close(succeeded=False)
        raise TargetNotEmptyError(f"the target {shown} is not empty: it holds {first!r}")
    return target


def taken_up(request: RestoreRequest) -> RestoreRequest:
    """Returns the request as it is to be done over what an earlier run of the same operation has written."""
    work = os.path.join(request.target, work_folder(request.operation))
    if request.if_not_empty is IfNotEmpty.FAIL and (request.resume or os.path.isdir(work)):
        return msgspec.structs.replace(request, if_not_empty=IfNotEmpty.OVERWRITE)
    return request


def is_counted(name: bytes) -> bool:
    """Says whether a name at the top of the target is a user's."""
    return name not in _NOT_COUNTED and not name.startswith(WORK_FOLDER_PREFIX)


def _make_folders(path: bytes) -> list[bytes]:
    missing: list[bytes] = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    missing.reverse()
    for folder in missing:
        os.mkdir(folder, 0o755)
    return missing
