"""Threads that do something slow while their owner goes on with the next thing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class Behind:
    """Does a few pieces of work at a time. For one owner.

    Args:
        name: what its threads are called; there are none before the first work.
        most: pieces that are done at once.
    """

    def __init__(self, name: str, most: int = 1) -> None:
        self._threads = ThreadPoolExecutor(most, name)
        self._most = most
        self._running: deque[Future[None]] = deque()

    def do(self, work: Callable[[], None]) -> None:
        """Begins with some work, once so much of what was begun before is done.

        Raises:
            Exception: what some of that has raised; this work is not begun then.
        """
        while len(self._running) >= self._most:
            self._running.popleft().result()
        self._running.append(self._threads.submit(work))

    def finish(self) -> None:
        """Waits until all is done; raises what the first has raised that failed."""
        while self._running:
            self._running.popleft().result()

    def settle(self) -> None:
        """Waits until all has ended, however that is."""
        wait(self._running)
        self._running.clear()

    def close(self) -> None:
        """Ends the threads once all has ended."""
        self.settle()
        self._threads.shutdown()
