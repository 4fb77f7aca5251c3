"""The memory through which the content of segments passes, block by block, on its way to the disk."""

from __future__ import annotations

import itertools

from agent.pipeline.memory import anonymous
from agent.repository.frame import BLOCK_SIZE

WRITES_AT_ONCE = 3
"""Blocks of a segment that are written at once, while the next is decoded.

Direct writes wait for the disk: beside a store on the same two cores a restore with 3 took 0.94 of the time of one with
1, and 6 were no better.
"""


class Blocks:
    """Blocks of memory that are used in turn. One per thread."""

    def __init__(self) -> None:
        self._turns = itertools.cycle([anonymous(BLOCK_SIZE) for _ in range(WRITES_AT_ONCE + 1)])

    def next(self) -> memoryview:
        """Returns a block; it is nobody else's until ``WRITES_AT_ONCE`` more were asked for."""
        return next(self._turns)
