"""The snapshot's end of its lookout, which sees what the scan comes to before the scan does."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import msgspec

from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.pipeline.standby_workers import StandbyWorkers
from agent.pipeline.worker_process import WorkerDiedError
from agent.pipeline.workers import usable_cores
from agent.repository.model import order
from agent.snapshot.request import SnapshotRequest
from agent.snapshot.seen import Orders, Seen

MODULE = "agent.snapshot.lookout"

SILENCE_SECONDS = 10.0
"""How long a lookout may say nothing while the scan waits for it: what it does not tell the scan sees itself."""


class LookAhead:
    """What the lookout sees. It is never missed: what it does not tell, or dies before telling, the scan looks at.

    Args:
        root_fd: the workspace, open as long as this is used.
        orders: what of it is gone through.
        standby: where a process that waits already comes from.
        silence_seconds: how long it may say nothing while it is waited for.

    Attributes:
        root_fd: the workspace.
        begun_ns: when the looking began, by the monotonic clock.

    Raises:
        OSError: no process can be started.
    """

    def __init__(
        self,
        root_fd: int,
        orders: Orders,
        standby: StandbyWorkers | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.root_fd = root_fd
        self.begun_ns = time.monotonic_ns()
        self._process = (standby or StandbyWorkers()).take(MODULE, silence_seconds)
        with contextlib.suppress(WorkerDiedError):
            self._process.connection.send(msgspec.msgpack.encode(orders), [root_fd])
        self._seen = self._receive()
        self._next: Seen | None = None
        self._is_used = True

    def directory(self, path: bytes) -> Seen | None:
        """Returns what was seen of a directory; each must come after the one before, in archive order."""
        if not self._is_used:
            return None
        place = order(path)
        if self._next is None:
            self._next = next(self._seen, None)
        while self._next is not None and order(self._next.path) < place:
            self._next = next(self._seen, None)
        if self._next is None or self._next.path != path:
            return None
        found, self._next = self._next, None
        return found

    def abort(self) -> None:
        """Ends it: nothing more is told. From any thread."""
        self._is_used = False
        self._process.kill()

    def close(self) -> None:
        """Ends it, and closes the workspace."""
        self._process.dismiss()
        os.close(self.root_fd)

    def _receive(self) -> Iterator[Seen]:
        decode = msgspec.msgpack.Decoder(list[Seen]).decode
        with contextlib.suppress(WorkerDiedError):
            while message := self._process.connection.receive()[0]:
                yield from decode(message)


@contextlib.contextmanager
def looking_ahead(request: SnapshotRequest, standby: StandbyWorkers | None = None) -> Iterator[LookAhead | None]:
    """Has a workspace looked at from now on, for a block; ``None`` where that would not help, or cannot be done."""
    ahead = None
    # To read everything anew, nothing needs to be known before; one worker at most is a wish for one busy process.
    if not request.full and request.transfer.workers != 1 and usable_cores() > 1:
        ahead = _begin(request, standby)
    try:
        yield ahead
    finally:
        if ahead is not None:
            ahead.close()


def _begin(request: SnapshotRequest, standby: StandbyWorkers | None) -> LookAhead | None:
    orders = Orders(request.exclude, request.include, request.exclude_caches, request.one_file_system)
    try:
        root_fd = os.open(request.workspace, DIRECTORY_FLAGS)
    except OSError:
        return None  # whoever opens it next says so
    try:
        return LookAhead(root_fd, orders, standby)
    except OSError:
        os.close(root_fd)
        return None
