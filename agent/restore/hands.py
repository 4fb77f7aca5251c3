"""What the working threads of a restore work with, and what they do together while it looks at what is there."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from agent.pipeline.crew import Crew, Stopwatch
from agent.restore.chunk_writer import ChunkWriting
from agent.restore.notes import Notes
from agent.restore.publisher import Publisher
from agent.restore.task import LocalTask, Written

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Hand:
    """What one thread works with."""

    chunks: ChunkWriting
    publisher: Publisher

    def close(self) -> None:
        """Gives back what it holds."""
        self.publisher.close()
        self.chunks.close()


class Hands:
    """Does local tasks in all threads at once.

    Attributes:
        first: the hand for what the calling thread does itself while no other works.
    """

    def __init__(self, hands: Sequence[Hand], notes: Notes, crew: Crew) -> None:
        self._hands = hands
        self._notes = notes
        self._crew = crew
        self._lock = threading.Lock()
        self.first = hands[0]

    def check(self) -> None:
        """Raises when all shall stop."""
        self._crew.check()

    def do(self, hand: Hand, task: LocalTask) -> Written:
        """Does a task and counts what it did."""
        with Stopwatch() as watch:
            written = hand.chunks.do(task)
        self._notes.occupations.worked(watch.seconds, written.processor_seconds)
        self._notes.written(written)
        return written

    def each(self, items: Iterable[_T], work: Callable[[Hand, _T], None]) -> None:
        """Works on all items, in all threads."""
        pending: Iterator[_T] = iter(items)

        def run(hand: Hand) -> None:
            while True:
                self._crew.check()
                with self._lock:
                    item = next(pending, None)
                if item is None:
                    return
                work(hand, item)

        for number, hand in enumerate(self._hands):
            self._crew.start(f"reuse-{number}", functools.partial(run, hand))
        self._crew.join()
