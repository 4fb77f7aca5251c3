"""Objects that are sent from where they can be read again, so that nobody holds them in memory meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class SourceLostError(Exception):
    """A source does not give the bytes any more that it was made for. Nothing of them was stored."""


class Source(Protocol):
    """The bytes of one object, which can be read as often as it takes."""

    @property
    def size(self) -> int:
        """How many bytes."""
        ...

    def pieces(self) -> Iterator[memoryview]:
        """Yields them from the first to the last; each piece is valid until the next one is asked for.

        Raises:
            SourceLostError: before the last piece, if they are not what they were, or cannot be read.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds. Further calls do nothing."""
        ...
