"""What is in a directory. No link is followed."""

from __future__ import annotations

import os
import sys

import msgspec

from agent.pipeline.work_folder import WORK_FOLDER_PREFIX
from agent.snapshot.filters import CACHE_TAG_NAME, CACHE_TAG_SIGNATURE, Filter
from agent.snapshot.source import open_regular

# As `os.fsencode` has them, which takes longer.
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

_NO_FOLDERS: frozenset[bytes] = frozenset()


class Listing(msgspec.Struct, frozen=True, array_like=True):
    """The names in a directory that a scan goes through.

    Attributes:
        names: in archive order, the last first.
        folders: which of the names are directories, if a filter will ask.
    """

    names: list[bytes]
    folders: frozenset[bytes]


def list_directory(fd: int, path: bytes, chosen: Filter) -> Listing:
    """Lists an open directory, without its own work folders and with nothing but the tag of a tagged cache.

    Args:
        fd: the directory.
        path: the directory; empty for the workspace.
        chosen: what is kept.

    Raises:
        OSError: it cannot be read.
    """
    names = [name.encode(_ENCODING, _ERRORS) for name in os.listdir(fd)]
    names.sort(reverse=True)
    if not path:
        names = [name for name in names if not name.startswith(WORK_FOLDER_PREFIX)]
    if chosen.skips_tagged_caches and CACHE_TAG_NAME in names and _has_signature(fd):
        names = [CACHE_TAG_NAME]
    return Listing(names, _folders(fd) if chosen.leaves_out else _NO_FOLDERS)


def _has_signature(directory_fd: int) -> bool:
    try:
        fd = open_regular(directory_fd, CACHE_TAG_NAME)
    except OSError:
        return False
    try:
        return os.read(fd, len(CACHE_TAG_SIGNATURE)) == CACHE_TAG_SIGNATURE
    except OSError:
        return False
    finally:
        os.close(fd)


def _folders(fd: int) -> frozenset[bytes]:
    """Returns the names of the directories in an open one, without a look at each where the file system tells."""
    with os.scandir(fd) as found:
        return frozenset(os.fsencode(child.name) for child in found if _is_directory(child))


def _is_directory(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir(follow_symlinks=False)
    except OSError:
        # Looking at it later fails likewise, and says so.
        return False
