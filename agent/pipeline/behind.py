"""One thread that does something slow while its owner goes on with the next thing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait


class Behind:
    """Does one piece of work at a time. For one owner.

    Args:
        name: what its thread is called; there is none before the first work.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._running: Future[None] | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Begins with some work once the last one is done.

        Raises:
            Exception: what the last one has raised; this one is not begun then.
        """
        self.finish()
        self._running = self._thread.submit(work)

    def finish(self) -> None:
        """Waits for the last work; raises what it has raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def settle(self) -> None:
        """Waits for the last work, however it ends."""
        if self._running is not None:
            wait([self._running])
            self._running = None

    def close(self) -> None:
        """Ends the thread once it is done."""
        self.settle()
        self._thread.shutdown()
