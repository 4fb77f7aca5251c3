"""Threads that work on one operation and stop together: the first error, or a cancel, ends them all."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from agent.errors import CancelledError

_T = TypeVar("_T")

POLL_SECONDS = 0.1
"""How long a blocked thread of a crew takes at most to see that the crew stops."""


class Crew:
    """The threads of one operation.

    Args:
        cancel: set from outside when the operation shall stop.
        on_stop: called once, from a thread of its own, soon after the crew stops early; it unblocks what waits
            elsewhere.
    """

    def __init__(self, cancel: threading.Event, on_stop: Callable[[], None] = lambda: None) -> None:
        self._cancel = cancel
        self._on_stop = on_stop
        self._stopping = threading.Event()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._watcher = threading.Thread(target=self._watch, name="cancel-watcher", daemon=True)
        self._watcher.start()

    @property
    def stopping(self) -> bool:
        """Whether everything shall end now."""
        return self._stopping.is_set()

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Runs ``work`` in a thread; its error stops the crew."""
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)  # one that could not be started cannot be joined

    def fail(self, error: BaseException) -> None:
        """Stops the crew because of ``error``; only the first one counts."""
        with self._lock:
            if self._error is None and not self._done.is_set():
                self._error = error
        self._stopping.set()

    def check(self) -> None:
        """Raises CancelledError if the crew stops, so that a loop over bytes ends soon."""
        if self._cancel.is_set():
            self.fail(CancelledError("the operation was cancelled"))
        if self._stopping.is_set():
            raise CancelledError("the operation stops")

    def join(self) -> None:
        """Waits for all threads.

        Raises:
            GpusnapError: the first error of any of them; CancelledError after a cancel.
        """
        for thread in self._threads:
            thread.join()
        self.raise_error()

    def raise_error(self) -> None:
        """Raises the first error, if there was one."""
        if self._error is not None:
            raise self._error

    def heeding(self, call: Callable[[_T], None]) -> Callable[[_T], None]:
        """Returns a callback whose errors stop the crew: a future swallows them, and the crew would wait for ever."""

        def heeded(argument: _T) -> None:
            try:
                call(argument)
            except BaseException as error:  # carried to join()
                self.fail(error)

        return heeded

    def cause(self, error: BaseException) -> BaseException:
        """Returns the first error; ``error``, which ended the work of the crew, if there was none before."""
        return self._error or error

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Bounds the life of the crew: an error in the block stops the threads, and the first error is raised."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            self.join()
            raise
        finally:
            self._done.set()
            self._watcher.join()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # carried to join()
            self.fail(error)

    def _watch(self) -> None:
        """Sees a cancel, and calls ``on_stop``; where the error is met may be a callback, which must not block."""
        while not self._done.wait(POLL_SECONDS):
            if self._cancel.is_set():
                self.fail(CancelledError("the operation was cancelled"))
            if self._stopping.is_set():
                self._on_stop()
                return


def wait_for(items: queue.SimpleQueue[_T], check: Callable[[], None]) -> _T:
    """Waits for the next item of a queue; raises what ``check`` raises, which is called meanwhile."""
    while True:
        check()
        try:
            return items.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue


class Channel(Generic[_T]):
    """A bounded queue between threads of a crew: blocked ends see when the crew stops."""

    def __init__(self, crew: Crew, size: int) -> None:
        self._crew = crew
        self._queue: queue.Queue[_T] = queue.Queue(size)

    def put(self, item: _T) -> None:
        """Adds an item, waiting for room. Raises CancelledError when the crew stops."""
        while True:
            self._crew.check()
            try:
                return self._queue.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue

    def get(self) -> _T:
        """Takes an item, waiting for one. Raises CancelledError when the crew stops."""
        while True:
            self._crew.check()
            try:
                return self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue


class Allowance:
    """A counted budget between threads of a crew, such as entries in memory. Something too large goes in alone."""

    def __init__(self, crew: Crew, total: int) -> None:
        self._crew = crew
        self._total = total
        self._used = 0
        self._changed = threading.Condition()

    def take(self, amount: int) -> None:
        """Takes ``amount``, waiting until it is there. Raises CancelledError when the crew stops."""
        with self._changed:
            while self._used and self._used + amount > self._total:
                self._crew.check()
                self._changed.wait(POLL_SECONDS)
            self._used += amount

    def give(self, amount: int) -> None:
        """Gives ``amount`` back."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def wait_empty(self) -> None:
        """Waits until everything was given back. Raises CancelledError when the crew stops."""
        with self._changed:
            while self._used:
                self._crew.check()
                self._changed.wait(POLL_SECONDS)


class Stopwatch:
    """Seconds of a ``with`` block."""

    def __enter__(self) -> Stopwatch:
        self._start = time.monotonic()
        self.seconds = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._start
