"""What a store in a folder does up to a deadline only.

A file system refuses nothing, so whatever is done late must fail by itself or be undone:

- An upload is written under a temporary name and renamed. The time is checked in between, by the file's own time, and
  a prune first removes the temporary files that are older than any delay it allows for: a process that was stopped
  after its check finds nothing to rename.
- A delete renames the file away and looks what it has taken. A file that came there meanwhile is put back, by the next
  prune if the process was killed just then.
"""

from __future__ import annotations

import os
import shutil
from urllib.parse import quote, unquote

from agent.errors import DeadlinePassedError
from agent.storage.store import Deadline

UPLOAD_PREFIX = "before-"
"""Folders of temporary files that may be renamed until a deadline only."""

REMOVED_PREFIX = "removed-"
"""Folders of files that were renamed away and are about to be unlinked."""

ABANDONED_SECONDS = 60
"""Age after which the process that renamed a file away is taken for dead; if it lives, putting back does no harm."""


def check_in_time(path: str, deadline: Deadline, what: str) -> None:
    """Makes a path's time that of now, by its file system's clock, and compares it with a deadline.

    Raises:
        DeadlinePassedError: it is over.
    """
    os.utime(path)
    if os.stat(path).st_mtime_ns // 10**9 > deadline.begin_s + deadline.seconds:
        raise DeadlinePassedError(f"{what}: its time was over")


def remove_as_seen(path: str, key: str, seen: os.stat_result, folder: str) -> bool:
    """Removes a file by way of a folder of the caller's own on the same file system; no if it is not the one seen.

    Raises:
        FileNotFoundError: there is none.
    """
    aside = os.path.join(folder, quote(key, safe=""))
    os.rename(path, aside)
    found = os.stat(aside)
    # A rename changes ctime, so that does not tell.
    if (found.st_ino, found.st_mtime_ns, found.st_size) != (seen.st_ino, seen.st_mtime_ns, seen.st_size):
        _put_back(aside, path)
        return False
    os.unlink(aside)
    return True


def undo(incoming: str, base: str, now_s: int, seconds: int) -> None:
    """Removes temporary files that are older than ``seconds``, and puts back what a killed process had removed.

    Args:
        incoming: the folder of temporary names.
        base: the folder of the repository.
        now_s: the file system's clock.
        seconds: how old an upload may be.
    """
    for name in os.listdir(incoming):
        folder = os.path.join(incoming, name)
        if name.startswith(UPLOAD_PREFIX) and now_s - _newest(folder) > seconds:
            shutil.rmtree(folder, ignore_errors=True)
        elif name.startswith(REMOVED_PREFIX) and now_s - _newest(folder) > ABANDONED_SECONDS:
            for aside in os.listdir(folder):
                _put_back(os.path.join(folder, aside), os.path.join(base, unquote(aside)))
            shutil.rmtree(folder, ignore_errors=True)


def _put_back(aside: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.link(aside, path)
    except FileExistsError:
        pass  # stored once more meanwhile
    except OSError:  # a file system without hard links
        if not os.path.exists(path):
            os.rename(aside, path)
            return
    os.unlink(aside)


def _newest(folder: str) -> int:
    """Returns the latest time of a folder and the files in it, in whole seconds; far ahead if they are going away."""
    try:
        paths = [folder, *(os.path.join(folder, name) for name in os.listdir(folder))]
        return max(os.stat(path).st_mtime_ns for path in paths) // 10**9
    except FileNotFoundError:
        return 1 << 62
