"""Local files of transfers, with errors that name the file."""

from __future__ import annotations

import errno
import os
from typing import BinaryIO

from agent.errors import GpusnapError, LocalIoError, LocalPermissionError, NoSpaceError, PathNotFoundError


def open_local(path: str) -> BinaryIO:
    """Opens a local file for reading.

    Raises:
        PathNotFoundError, LocalPermissionError, LocalIoError: it cannot be read.
    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise local_error(error, path) from error


def create_local(path: str) -> BinaryIO:
    """Creates a local file that must not exist yet, readable by its owner alone.

    Raises:
        NoSpaceError, PathNotFoundError, LocalPermissionError, LocalIoError: it cannot be created.
    """
    try:
        return open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b")
    except OSError as error:
        raise local_error(error, path) from error


def remove_file(path: str) -> None:
    """Removes a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def free_bytes(folder: str) -> int:
    """Returns how many bytes an unprivileged process can still write to the folder's file system."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def local_error(error: OSError, path: str) -> GpusnapError:
    """Returns the error of the hierarchy for a failed action on a local file."""
    message = f"{path}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(message)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return LocalPermissionError(message)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return PathNotFoundError(message)
    return LocalIoError(message)
