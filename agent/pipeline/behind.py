"""Threads that do something slow while their owner goes on with the next thing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

MOST_STEPS = 64
"""Steps that wait at most: each may hold a descriptor or two."""

Step = Callable[[bool], None]
"""What follows on some work. It gets whether all work that was begun before it went well; if not, it only cleans up."""


class Behind:
    """Does a few pieces of work at a time. For one owner.

    Args:
        name: what its threads are called; there are none before the first work.
        most: pieces that are done at once.
    """

    def __init__(self, name: str, most: int = 1) -> None:
        self._threads = ThreadPoolExecutor(most, name)
        self._most = most
        self._begun: deque[Future[None] | Step] = deque()
        self._works = self._steps = 0

    def do(self, work: Callable[[], None]) -> None:
        """Begins with some work, once so much of what was begun before is done.

        Raises:
            Exception: what some of that, or a step, has raised; this work is not begun then.
        """
        self._advance(self._most - 1, MOST_STEPS)
        self._begun.append(self._threads.submit(work))
        self._works += 1

    def then(self, step: Step) -> None:
        """Has the owner take a step once all work that was begun so far is done: at once, or in one of its later calls.

        Raises:
            Exception: what some work or a step has raised.
        """
        self._begun.append(step)
        self._steps += 1
        self._advance(self._most, MOST_STEPS)

    def finish(self) -> None:
        """Waits until all is done and takes all steps; raises what the first has raised that failed."""
        self._advance(0, 0)

    def settle(self) -> None:
        """Waits until all work has ended, however that is; steps that are left clean up."""
        begun, self._begun = self._begun, deque()
        self._works = self._steps = 0
        wait([work for work in begun if isinstance(work, Future)])
        for step in begun:
            if not isinstance(step, Future):
                step(False)

    def close(self) -> None:
        """Ends the threads once all has ended."""
        self.settle()
        self._threads.shutdown()

    def _advance(self, works: int, steps: int) -> None:
        """Goes on as far as nothing has to be waited for, and until no more than so much is left."""
        while self._begun:
            first = self._begun[0]
            if isinstance(first, Future):
                if self._works <= works and self._steps <= steps and not first.done():
                    return
                self._begun.popleft()
                self._works -= 1
                first.result()
            else:
                self._begun.popleft()
                self._steps -= 1
                first(True)
