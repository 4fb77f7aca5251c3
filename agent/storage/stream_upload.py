"""One upload of the stream engine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import Future

import msgspec

from agent.errors import GpusnapError, NoSpaceError
from agent.storage.arena import Room
from agent.storage.choice import STREAM
from agent.storage.engine import TransferReport
from agent.storage.retry import Endurance, RetryPolicy
from agent.storage.sigv4 import UNSIGNED
from agent.storage.source import Source, SourceLostError
from agent.storage.stream_connection import Connection
from agent.storage.stream_requests import Requests


class OutgoingBuffer:
    """An object on its way out, in memory.

    Args:
        room: its memory.
        size: the bytes it may have.
    """

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self._capacity = size
        self._written = 0
        self.place = msgspec.structs.replace(room.place, size=size)

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return self._written

    def pieces(self) -> Iterator[memoryview]:
        """Yields them, in one piece."""
        yield self._room.view[: self._written]

    def write(self, data: bytes | memoryview) -> None:
        """Appends to the object.

        Raises:
            NoSpaceError: it gets larger than was asked for.
        """
        end = self._written + len(data)
        if end > self._capacity:
            raise NoSpaceError(
                f"an object of {end:,} bytes does not fit into the {self._capacity:,} that were asked for"
            )
        self._room.view[self._written : end] = data
        self._written = end

    def written_elsewhere(self, size: int) -> None:
        """Says that another process has written the object."""
        self._written = size

    def failure(self, error: OSError) -> GpusnapError:
        """Returns what an error while the memory was written means: there is no more of it."""
        return NoSpaceError(f"an object cannot be written to memory: {error.strerror}")

    def release(self) -> None:
        """Gives the room back. Further calls do nothing."""
        self._room.release()

    close = release


class Upload:
    """Stores one object with one PUT; tried again from its beginning.

    What protects the bytes on their way: TLS, or over http a SHA-256 (0.55 CPU seconds a GB), which is signed and also
    given as a checksum, as some stores compare only that.

    Args:
        key: the object.
        source: its bytes, closed in the end.
        requests: makes the request.
        policy: how long it is tried.
    """

    moved = 0
    """A PUT that breaks begins anew."""

    def __init__(self, key: str, source: Source, requests: Requests, policy: RetryPolicy) -> None:
        self.key = key
        self.future: Future[TransferReport] = Future()
        self.future.set_running_or_notify_cancel()
        self.endurance = Endurance(policy)
        self._source = source
        self._requests = requests
        self._payload = ""
        self._lost: SourceLostError | None = None
        self._began = time.monotonic()

    def attempt(self, connection: Connection) -> None:
        """Sends the object and waits until the store has confirmed it."""
        try:
            self._send(connection)
        except SourceLostError as error:
            self._lost = error  # no other try would help

    def finish(self, error: GpusnapError | None) -> None:
        """Gives back what the source holds, and tells who waits."""
        size = self._source.size
        self._source.close()
        if error is not None or self._lost is not None:
            self.future.set_exception(error or self._lost)
        else:
            seconds = time.monotonic() - self._began
            self.future.set_result(TransferReport(size, seconds, max(self.endurance.attempts, 1), STREAM))

    def _send(self, connection: Connection) -> None:
        if not self._payload:
            self._payload = UNSIGNED if self._requests.is_tls else _sha256(self._source)
        request = self._requests.put(self.key, self._source.size, self._payload)
        head = connection.request(request, self._source.pieces())
        text = connection.read_text()
        if not 200 <= head.status < 300:
            raise self._requests.refused(request, head, text)


def _sha256(source: Source) -> str:
    digest = hashlib.sha256()
    for piece in source.pieces():
        digest.update(piece)
    return digest.hexdigest()
