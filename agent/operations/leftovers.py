"""What an operation leaves in the file system while it runs, and its removal. Everything here blocks."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time

from agent.errors import LocalIoError, LocalPermissionError, NoSpaceError
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.pipeline.work_folder import work_folder
from agent.restore.kept import trim

REMOVAL_ATTEMPTS = 5
"""How often the removal of a folder is tried: a program that is just being killed may still put a file there."""

REMOVAL_PAUSE = 0.05
"""Seconds between two attempts."""

_log = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def staging_folder(staging_dir: str, name: str) -> str:
    """Returns the staging folder of one operation."""
    return os.path.join(staging_dir, name)


def make_staging(path: str) -> None:
    """Makes an operation's staging folder, readable for the agent alone.

    Raises:
        NoSpaceError: the file system is full.
        LocalPermissionError: the agent may not write there.
        LocalIoError: it failed otherwise.
    """
    try:
        os.makedirs(path, mode=0o700)
    except PermissionError as error:
        raise LocalPermissionError(f"the staging folder {path} cannot be made: {error.strerror}") from error
    except OSError as error:
        kind = NoSpaceError if error.errno in _FULL else LocalIoError
        raise kind(f"the staging folder {path} cannot be made: {error.strerror}") from error


def remove_staging(path: str) -> None:
    """Removes an operation's staging folder, if it is there."""
    _remove_tree(path)


def remove_restore_work(target: bytes, name: str) -> None:
    """Removes the folder in which a restore that did not succeed kept files that were not complete yet."""
    _remove_tree(os.fsdecode(os.path.join(target, work_folder(name))))


def keep_restore_work(target: bytes, name: str) -> bool:
    """Removes from that folder what no other restore could go on with; says whether anything is left."""
    path = os.path.join(target, work_folder(name))
    try:
        work_fd = os.open(path, DIRECTORY_FLAGS)
    except OSError:
        return False
    try:
        is_useful = trim(work_fd)
    except OSError as error:
        _log.warning("%s could not be looked through: %s", os.fsdecode(path), error)
        is_useful = False
    finally:
        os.close(work_fd)
    if not is_useful:
        remove_restore_work(target, name)
    return is_useful


def _remove_tree(path: str) -> None:
    # Never fails an operation: what could not be removed is named in the log.
    for attempt in range(REMOVAL_ATTEMPTS):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            # Either it is gone, or something in it was removed by somebody else at the same time.
            if not os.path.lexists(path):
                return
        except OSError as error:
            if attempt == REMOVAL_ATTEMPTS - 1:
                _log.warning("%s could not be removed: %s", path, error)
        else:
            return
        time.sleep(REMOVAL_PAUSE)
