"""An object on its way out that is a local file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import BinaryIO

from agent.errors import GpusnapError, NoSpaceError
from agent.storage.engine import Place
from agent.storage.local import local_error


class OutgoingFile:
    """A new file that is written once.

    Args:
        path: the file.
        file: the same, open for writing.
        capacity: the bytes it may have.
        full: returns the error to raise when its file system is full.
        give_back: removes the file and gives its room back; called exactly once.
    """

    def __init__(
        self,
        path: str,
        file: BinaryIO,
        capacity: int,
        full: Callable[[], NoSpaceError],
        give_back: Callable[[], None],
    ) -> None:
        self.path = path
        self.size = 0
        self.place = Place(file.fileno(), 0, capacity)
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
            raise self.failure(error) from error

    def written_elsewhere(self, size: int) -> None:
        """Says that another process has written the file."""
        self.size = size

    def failure(self, error: OSError) -> GpusnapError:
        """Returns what an error while the file was written means."""
        problem = local_error(error, self.path)
        return self._full() if isinstance(problem, NoSpaceError) else problem

    def finish(self) -> int:
        """Writes out what is still buffered, closes the file and returns its bytes. Raises as ``write``."""
        try:
            self._file.close()
        except OSError as error:
            raise self.failure(error) from error
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
