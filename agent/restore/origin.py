"""What the unfinished files of a work folder belong to, kept in a small file beside them."""

from __future__ import annotations

import os

import msgspec

from agent import foreign
from agent.errors import DataLossError

FILE_NAME = b"origin"

_MOST_BYTES = 4096
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Origin(msgspec.Struct, frozen=True):
    """Where unfinished files come from.

    Attributes:
        snapshot: the snapshot's id.
        boot: the kernel's run in which everything was written that the restore has brought so far; empty if there were
            several. What an earlier one wrote may be gone although a file has its size and time: nothing is synced.
    """

    snapshot: str
    boot: str


_decoder = msgspec.json.Decoder(Origin)


def this_boot() -> str:
    """Returns what tells this run of the kernel from others."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def write_origin(folder_fd: int, origin: Origin) -> None:
    """Writes the file into an open work folder that has none."""
    fd = os.open(FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
    with open(fd, "wb") as file:
        file.write(msgspec.json.encode(origin))
        # A power failure must not leave less of it than of what it vouches for.
        file.flush()
        os.fsync(fd)


def read_origin(folder_fd: int) -> Origin | None:
    """Returns what the file in an open work folder says; None if there is none, or it says nothing."""
    try:
        fd = os.open(FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
        with open(fd, "rb") as file:
            return foreign.decode(file.read(_MOST_BYTES), _decoder, "the origin of unfinished files")
    except (OSError, DataLossError):
        return None
