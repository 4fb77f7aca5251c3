"""Runs several pieces of code in an order that a test chooses, one request to the store at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

SECONDS = 20.0
"""How long one step may take before the test fails."""


class KilledError(BaseException):
    """Ends an actor at a request, as SIGKILL would."""


class Actor:
    """One process: code that runs in threads and waits for its turn before each request.

    Attributes:
        error: what it ended with.
        requests: what it did so far.
    """

    def __init__(self, name: str, work: Callable[[Actor], None]) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.requests: list[str] = []
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, threading.Event]] = deque()
        self._killed = False
        self._done = False
        self._busy = True
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)

    def start(self) -> None:
        """Lets it go on to its first request."""
        self._thread.start()
        self._settle()

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._done

    @property
    def pending(self) -> str:
        """The request that it would do next; empty once it has ended."""
        with self._changed:
            return self._waiting[0][0] if self._waiting else ""

    def turn(self, request: str) -> None:
        """Waits for its turn; to be called by the actor's threads."""
        granted = threading.Event()
        with self._changed:
            if self._killed:
                raise KilledError
            self._waiting.append((request, granted))
            self._changed.notify_all()
        assert granted.wait(SECONDS), f"{self.name} waited in vain to {request}"
        if self._killed:
            raise KilledError

    def step(self) -> None:
        """Lets one request happen, and waits until the actor is at the next one."""
        with self._changed:
            if not self._waiting:
                return
            request, granted = self._waiting.popleft()
            self.requests.append(request)
        granted.set()
        self._settle()

    def kill(self) -> None:
        """Lets none of its requests happen any more."""
        with self._changed:
            self._killed = True
            waiting, self._waiting = self._waiting, deque()
        for _, granted in waiting:
            granted.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def _run(self, work: Callable[[Actor], None]) -> None:
        try:
            work(self)
        except BaseException as error:
            self.error = error
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _settle(self) -> None:
        """Waits until it waits for a turn or has ended. Further threads of it may join the queue later."""
        deadline = time.monotonic() + SECONDS
        with self._changed:
            while not (self._done or self._waiting):
                assert self._changed.wait(deadline - time.monotonic()), f"{self.name} got stuck"
