"""Local files of transfers, with errors that name the file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
        return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))
    except OSError as error:
        raise local_error(error, path) from error


@contextmanager
def new_local(path: str) -> Iterator[BinaryIO]:
    """Creates a local file for the length of a ``with`` block and removes it if the block fails.

    Raises:
        NoSpaceError, PathNotFoundError, LocalPermissionError, LocalIoError: it cannot be created.
    """
    with create_local(path) as file:
        try:
            yield file
        except BaseException:
            remove_file(path)
            raise


def write_local(file: BinaryIO, data: bytes) -> None:
    """Writes to a local file.

    Raises:
        NoSpaceError, LocalIoError: the disk is full or fails.
    """
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise local_error(error, str(file.name)) from error


def size_of(path: str) -> int:
    """Returns the size of a local file in bytes.

    Raises:
        PathNotFoundError, LocalPermissionError, LocalIoError: it cannot be looked at.
    """
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise local_error(error, path) from error


def remove_file(path: str) -> None:
    """Removes a file that may be gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def free_bytes(folder: str) -> int:
    """Returns how many bytes an unprivileged process can still write to the folder's file system.

    Raises:
        PathNotFoundError, LocalPermissionError, LocalIoError: it cannot be looked at.
    """
    try:
        facts = os.statvfs(folder)
    except OSError as error:
        raise local_error(error, folder) from error
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
