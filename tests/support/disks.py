"""Small file systems that get full or read-only, and files whose reading or writing fails."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.preload import build

_BLOCK = 4096
_LIST = "GPUSNAP_IO_ERRORS"


class Disk:
    """A file system in memory, mounted at an empty folder until ``close``.

    Args:
        folder: where it is mounted; made when it is missing.
        size: its bytes.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        done = _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        self._filling = -1

    @property
    def free(self) -> int:
        """Bytes that can be written."""
        facts = os.statvfs(self.folder)
        return facts.f_bavail * facts.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Takes all its room but ``leave`` bytes, in whole blocks, with a file that has no name."""
        if self._filling < 0:
            self._filling = os.open(self.folder, os.O_RDWR | os.O_TMPFILE)
        while (left := (self.free - leave) // _BLOCK * _BLOCK) > 0:
            os.posix_fallocate(self._filling, os.fstat(self._filling).st_size, left)

    def make_room(self) -> None:
        """Gives back what ``fill`` took."""
        if self._filling >= 0:
            os.close(self._filling)
            self._filling = -1

    def set_read_only(self, is_read_only: bool) -> None:
        """Forbids or permits writing, also of files that are open."""
        how = "ro" if is_read_only else "rw"
        _mount("-o", f"remount,{how}", str(self.folder)).check_returncode()

    def close(self) -> None:
        """Unmounts it, whoever uses it."""
        self.make_room()
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@contextlib.contextmanager
def sharing_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mounts a file system whose files can share blocks (btrfs, in a file below a folder) for a block."""
    image, mounted = folder / "image", folder / "mounted"
    mounted.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(size)
    try:
        made = subprocess.run(["mkfs.btrfs", "-q", str(image)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("mkfs.btrfs is missing (btrfs-progs)")
    assert made.returncode == 0, made.stderr
    done = _mount("-o", "loop", str(image), str(mounted))
    if done.returncode != 0:
        pytest.skip(f"btrfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


class IoErrors:
    """Files whose reading, writing or syncing fails in the programs that run with ``environ``.

    Args:
        folder: an empty folder for the library that does it.
    """

    def __init__(self, folder: Path) -> None:
        self._library, self._list = build("io_errors", folder), folder / "list"
        self.clear()

    @property
    def environ(self) -> Mapping[str, str]:
        """What a program needs in its environment."""
        return {"LD_PRELOAD": str(self._library), _LIST: str(self._list)}

    def set(self, actions: str, *parts: object, number: int = errno.EIO) -> None:
        """Lets nothing but these fail from now on.

        Args:
            actions: of "r", "w" and "s": reads, writes and syncs.
            parts: parts of the paths, without spaces.
            number: the error.
        """
        unfinished = self._list.with_suffix(".new")
        unfinished.write_text("".join(f"{action} {number} {part}\n" for part in parts for action in actions))
        unfinished.replace(self._list)

    def clear(self) -> None:
        """Lets nothing fail any more."""
        self.set("")


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
