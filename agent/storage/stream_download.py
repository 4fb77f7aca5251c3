"""One download of the stream engine: an object in parts, each over a connection of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import msgspec

from agent.errors import CancelledError, GpusnapError
from agent.storage.arena import Room
from agent.storage.choice import STREAM
from agent.storage.engine import Incoming, TransferReport
from agent.storage.http_head import BrokenAnswerError, Head
from agent.storage.retry import Endurance, RetryPolicy
from agent.storage.stream_connection import Connection
from agent.storage.stream_pool import Job
from agent.storage.stream_requests import Requests

RANGE_NOT_SATISFIABLE = 416


class Download:
    """Fetches one object into a room; done when the last of its parts is.

    If an object of several parts turns out to have another size, all its parts end, and it is fetched as a whole.

    Args:
        key: the object.
        size: its expected bytes.
        room: where it goes; larger than ``size``.
        requests: what is said to the store.
        policy: how long each part is tried.
        submit: queues parts.
    """

    def __init__(
        self,
        key: str,
        size: int,
        room: Room,
        requests: Requests,
        policy: RetryPolicy,
        submit: Callable[[list[Job]], None],
    ) -> None:
        self.key = key
        self.room = room
        self.requests = requests
        self.policy = policy
        self.future: Future[Incoming] = Future()
        self.future.set_running_or_notify_cancel()
        self._expected = size
        self._submit = submit
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._left = 0
        self._attempts = 1
        self._actual: int | None = None
        self._error: GpusnapError | None = None
        self._is_other_size = False

    def start(self, part_bytes: int) -> None:
        """Queues its parts: of ``part_bytes``, or the whole object if it is not larger."""
        size = self._expected
        if size <= part_bytes:
            self._begin([Part(self, 0, None)])
        else:
            self._begin([Part(self, start, min(start + part_bytes, size)) for start in range(0, size, part_bytes)])

    def check(self) -> None:
        """Raises CancelledError if the object is lost anyway, so that its other parts end soon."""
        if self._error is not None:
            raise CancelledError("another part of the object failed")

    def learn_size(self, size: int, is_whole: bool) -> None:
        """Takes the object's size as the store says it. Raises CancelledError if its parts do not fit that."""
        if not is_whole and size != self._expected:
            raise self.other_size()
        self._actual = size

    def other_size(self) -> CancelledError:
        """Notes that the parts do not fit; returns the error that ends them."""
        self._is_other_size = True
        return CancelledError("the object has another size")

    def part_finished(self, attempts: int, error: GpusnapError | None) -> None:
        """Ends one of its parts, and with the last one the download."""
        with self._lock:
            self._left -= 1
            self._attempts += attempts - 1
            # The first error counts: the others may only follow from it.
            self._error = self._error or error
            if self._left:
                return
        if self._is_other_size and isinstance(self._error, CancelledError):
            self._is_other_size, self._error = False, None
            self._begin([Part(self, 0, None)])
        elif self._error is not None:
            self.room.release()
            self.future.set_exception(self._error)
        else:
            assert self._actual is not None
            report = TransferReport(self._actual, time.monotonic() - self._began, self._attempts, STREAM)
            self.future.set_result(InMemory(self.room, report))

    def _begin(self, parts: list[Part]) -> None:
        self._left = len(parts)
        self._submit(list(parts))


class Part:
    """One piece of an object, fetched by one request, or by several if that breaks.

    Nothing watches that all requests see the same version of an object: objects never change, and what they hold is
    verified by those who read it.
    """

    def __init__(self, download: Download, start: int, end: int | None) -> None:
        self._download = download
        self._start = start
        self._position = start
        self._end = end
        self._is_whole = end is None
        self.endurance = Endurance(download.policy)

    @property
    def key(self) -> str:
        """The object."""
        return self._download.key

    @property
    def moved(self) -> int:
        """Bytes that have arrived."""
        return self._position - self._start

    def attempt(self, connection: Connection) -> None:
        """Fetches what is still missing."""
        self._download.check()
        request = self._download.requests.get(self.key, self._position, self._end)
        head = connection.request(request)
        if head.status == RANGE_NOT_SATISFIABLE:
            self._position = self._start
            if not self._is_whole:
                raise self._download.other_size()
            raise BrokenAnswerError("the store said a wrong size of the object")
        if head.status not in (200, 206):
            raise self._download.requests.refused(request, head, connection.read_text())
        self._skip(connection, self._understand(head))
        self._receive(connection)

    def finish(self, error: GpusnapError | None) -> None:
        """Tells the download."""
        self._download.part_finished(self.endurance.attempts, error)

    def _understand(self, head: Head) -> int:
        """Learns the object's size; returns how many bytes come before those that are wanted."""
        first, _, size = head.part
        if first > self._position:
            raise BrokenAnswerError(f"the store sent bytes from {first} instead of {self._position}")
        self._download.learn_size(size, self._is_whole)
        if self._is_whole:
            self._end = min(size, len(self._download.room.view))
        return self._position - first

    def _skip(self, connection: Connection, count: int) -> None:
        """Throws away bytes that were not asked for: some servers do not know ranges."""
        scratch = self._download.room.view[self._position : self._end]
        while count > 0:
            self._download.check()
            count -= self._some(connection.read_into(scratch[:count]))

    def _receive(self, connection: Connection) -> None:
        assert self._end is not None
        while self._position < self._end:
            self._download.check()
            self._position += self._some(connection.read_into(self._download.room.view[self._position : self._end]))

    def _some(self, count: int) -> int:
        if count == 0:
            raise BrokenAnswerError(f"the answer ended after {self._position} bytes of the object")
        return count


class InMemory:
    """A downloaded object in its room."""

    def __init__(self, room: Room, report: TransferReport) -> None:
        self._room = room
        self.view = room.view[: report.stored_bytes].toreadonly()
        self.place = msgspec.structs.replace(room.place, size=len(self.view))
        self.report = report

    def release(self) -> None:
        """Gives the room back."""
        self.view.release()
        self._room.release()
