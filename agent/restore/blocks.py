"""The memory through which the content of segments passes, block by block, on its way to the disk."""

from __future__ import annotations

import itertools

from agent.repository.frame import BLOCK_SIZE

WRITES_AT_ONCE = 3
"""Blocks of a segment that are written at once, while the next is decoded.

Direct writes wait for the disk: beside a store on the same two cores a restore with 3 took 0.94 of the time of one with
1, and 6 were no better.
"""


class Blocks:
    """Blocks of memory that are used in turn. One per thread.

    Args:
        memory: what they are cut from; ``WRITES_AT_ONCE`` + 1 of them, or as many as it has room for.
        size: bytes of one.
    """

    def __init__(self, memory: memoryview, size: int = BLOCK_SIZE) -> None:
        count = min(len(memory) // size, WRITES_AT_ONCE + 1)
        self._turns = itertools.cycle([memory[number * size : (number + 1) * size] for number in range(count)])

    def next(self) -> memoryview:
        """Returns a block; it is nobody else's until all others were asked for."""
        return next(self._turns)
