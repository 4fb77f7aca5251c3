"""The staging budget: how many local bytes objects on their way may use at once."""

from __future__ import annotations

import os
import secrets
import threading
from collections import deque
from typing import BinaryIO

from agent.errors import CancelledError, NoSpaceError, StagingFullError
from agent.storage.local import create_local, free_bytes, remove_file

MINIMUM_CHARGE = 64 << 10
"""Bytes an object is charged at least, so that a budget also bounds the number of tiny objects at once."""


class Budget:
    """A number of bytes that several threads share, handed out in the order of asking.

    Args:
        capacity: bytes that may be in use at once.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(capacity, 1)
        self._used = 0
        self._queue: deque[object] = deque()
        self._aborted = False
        self._changed = threading.Condition()

    @property
    def used(self) -> int:
        """Bytes in use."""
        with self._changed:
            return self._used

    @property
    def waiting(self) -> int:
        """How many threads wait for bytes."""
        with self._changed:
            return len(self._queue)

    def acquire(self, size: int) -> int:
        """Takes ``size`` bytes, blocking while they are not free, and returns what to give to ``release``.

        An object larger than the whole budget is let in when nothing else is.

        Raises:
            CancelledError: ``abort`` was called.
        """
        charge = max(size, MINIMUM_CHARGE)
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._aborted or (self._queue[0] is ticket and self._admits(charge)))
                if self._aborted:
                    raise cancelled()
                self._used += charge
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        return charge

    def release(self, charge: int) -> None:
        """Gives back what ``acquire`` returned."""
        with self._changed:
            self._used -= charge
            self._changed.notify_all()

    def widen(self, capacity: int) -> None:
        """Allows more bytes at once from now on."""
        with self._changed:
            self._capacity = max(self._capacity, capacity)
            self._changed.notify_all()

    def abort(self) -> None:
        """Fails everyone who waits, now and later."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def _admits(self, charge: int) -> bool:
        return self._used == 0 or self._used + charge <= self._capacity


class StagedFile:
    """Room for one object in a staging folder; releasing it removes the file."""

    def __init__(self, area: StagingArea, path: str, size: int, charge: int) -> None:
        self._area = area
        self._charge = charge
        self._path = path
        self.size = size

    @property
    def path(self) -> str:
        """The file; its name is unique and contains a token that no other file of any engine has."""
        return self._path

    def clear(self) -> None:
        """Removes the file, and what a killed s5cmd left beside it: the same name followed by digits."""
        folder, own = os.path.split(self._path)
        for name in _names(folder):
            if name.startswith(own):
                remove_file(os.path.join(folder, name))

    def release(self) -> None:
        """Removes the file and gives the room back. Further calls do nothing."""
        self._area.give_back(self, self._charge)


class StagingArea:
    """A folder on (usually) tmpfs with a budget.

    Args:
        folder: an existing folder that belongs to this area alone.
        capacity: bytes that may be staged at once.
    """

    def __init__(self, folder: str, capacity: int) -> None:
        self._folder = os.path.abspath(folder)
        self._budget = Budget(capacity)
        self._files: set[StagedFile] = set()
        self._changed = threading.Condition()
        self._aborted = False

    @property
    def folder(self) -> str:
        """The absolute path of the folder."""
        return self._folder

    def reserve(self, size: int) -> StagedFile:
        """Returns room for one object of ``size`` bytes; blocks while there is none. Nothing is created yet.

        Raises:
            CancelledError: ``abort`` was called.
            StagingFullError: the file system cannot hold it even when nothing else of this area is there.
        """
        charge = self._budget.acquire(size)
        path = os.path.join(self._folder, f"gpusnap-{secrets.token_hex(8)}")
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._aborted or self._has_room(size))
                if self._aborted:
                    raise cancelled()
                file = StagedFile(self, path, size, charge)
                self._files.add(file)
        except BaseException:
            self._budget.release(charge)
            raise
        return file

    def create(self, size: int) -> tuple[StagedFile, BinaryIO]:
        """Reserves room and opens the new file for writing. Raises as ``reserve``, and LocalPermissionError."""
        staged = self.reserve(size)
        try:
            return staged, create_local(staged.path)
        except NoSpaceError as error:
            staged.release()
            raise self.full(size) from error
        except BaseException:
            staged.release()
            raise

    def give_back(self, file: StagedFile, charge: int) -> None:
        """Ends a reservation; called by ``StagedFile.release``."""
        remove_file(file.path)  # even after an abort: a writer may have made it again
        with self._changed:
            if file not in self._files:
                return
            self._files.remove(file)
        self._budget.release(charge)
        with self._changed:
            self._changed.notify_all()

    def widen(self, capacity: int) -> None:
        """Allows more staged bytes at once from now on."""
        self._budget.widen(capacity)

    def abort(self) -> None:
        """Fails everyone who waits for room, now and later."""
        self._budget.abort()
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Removes every file in the folder and gives all room back."""
        with self._changed:
            files = list(self._files)
        for file in files:
            file.release()
        for name in _names(self._folder):
            remove_file(os.path.join(self._folder, name))

    def full(self, size: int) -> NoSpaceError:
        """Returns the error that says by numbers that ``size`` bytes do not fit."""
        free = free_bytes(self._folder)
        return StagingFullError(
            f"the staging folder {self._folder} has {free:,} bytes free, and the next chunk needs {size:,}",
            metadata={"free_bytes": str(free), "needed_bytes": str(size)},
        )

    def _has_room(self, size: int) -> bool:
        """Whether the file system holds ``size`` bytes beside everything that is promised already."""
        free = free_bytes(self._folder)
        promised = sum(file.size for file in self._files)
        if free >= promised + size:
            return True
        written = sum(_occupied_bytes(file.path) for file in self._files)
        if free + written >= promised + size:
            return True
        if not self._files:
            raise self.full(size)
        return False


def cancelled() -> CancelledError:
    """Returns the error of everything that ``abort`` ends."""
    return CancelledError("the transfers were cancelled")


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _occupied_bytes(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
