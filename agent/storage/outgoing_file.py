"""An object on its way out that is a local file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import BinaryIO

from agent.errors import NoSpaceError
from agent.storage.local import local_error


class OutgoingFile:
    """A new file that is written once.

    Args:
        path: the file.
        file: the same, open for writing.
        full: returns the error to raise when its file system is full.
        give_back: removes the file and gives its room back; called exactly once.
    """

    def __init__(
        self, path: str, file: BinaryIO, full: Callable[[], NoSpaceError], give_back: Callable[[], None]
    ) -> None:
        self.path = path
        self.size = 0
        self._file = file
        self._full = full
        self._give_back = give_back
        self._lock = threading.Lock()
        self._released = False

    def write(self, data: bytes | memoryview) -> None:
        """Appends to the file.

        Raises:
            NoSpaceError, LocalIoError: its file system is full or fails.
        """
        try:
            self.size += self._file.write(data)
        except OSError as error:
            raise self._translate(error) from error

    def finish(self) -> int:
        """Writes out what is still buffered, closes the file and returns its bytes. Raises as ``write``."""
        try:
            self._file.close()
        except OSError as error:
            raise self._translate(error) from error
        return self.size

    def release(self) -> None:
        """Removes the file and gives its room back. Further calls do nothing."""
        with self._lock:
            released, self._released = self._released, True
        if released:
            return
        try:
            self._file.close()
        except OSError:
            pass  # the disk is full: nobody wants these bytes any more
        self._give_back()

    def _translate(self, error: OSError) -> Exception:
        problem = local_error(error, self.path)
        return self._full() if isinstance(problem, NoSpaceError) else problem
