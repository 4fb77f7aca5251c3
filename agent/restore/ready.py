"""What the writing threads of a restore can take up: chunks that have arrived, and segments that are still to come."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import ClassVar

import msgspec

from agent.pipeline.crew import POLL_SECONDS
from agent.restore.plan import Job, SegmentJob
from agent.storage.engine import Incoming


class Fetched(msgspec.Struct, frozen=True):
    """A job whose chunk has arrived, or failed to; ``attempt`` counts from 1."""

    job: Job
    attempt: int
    future: Future[Incoming]


class Unfetched(msgspec.Struct, frozen=True):
    """A segment that whoever writes it may fetch."""

    job: SegmentJob
    attempt: ClassVar[int] = 1


class Ready:
    """Two queues. For any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._fetched: deque[Fetched] = deque()
        self._unfetched: deque[Unfetched] = deque()
        self._has_ended = False

    def put(self, item: Fetched | Unfetched) -> None:
        """Adds one."""
        with self._changed:
            if isinstance(item, Unfetched):
                self._unfetched.append(item)
            else:
                self._fetched.append(item)
            self._changed.notify()

    def end(self) -> None:
        """Says that nothing will be added any more."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def take(self, check: Callable[[], None], prefers_unfetched: bool) -> Fetched | Unfetched | None:
        """Waits for the next item, of the one kind or else of the other; ``None`` after the last one.

        Args:
            check: called meanwhile; what it raises goes through.
            prefers_unfetched: which kind is taken if there are both.
        """
        while True:
            check()
            with self._changed:
                if not (self._fetched or self._unfetched or self._has_ended):
                    self._changed.wait(POLL_SECONDS)
                if self._unfetched and (prefers_unfetched or not self._fetched):
                    return self._unfetched.popleft()
                if self._fetched:
                    return self._fetched.popleft()
                if self._has_ended:
                    return None
