"""Lines out of a stream of bytes, with a bound on their length."""

from __future__ import annotations


class LineSplitter:
    """Splits what comes in pieces into lines. A line that is longer than the limit is dropped and counted.

    Args:
        limit: bytes of a line at most, without its end.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self.dropped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the lines that ``data`` completes, without their ends and without empty ones."""
        lines: list[bytes] = []
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._add(piece)
            if self._size > self._limit:
                self.dropped += 1
            elif self._size:
                lines.append(b"".join(self._pieces))
            self._pieces.clear()
            self._size = 0
        self._add(rest)
        return lines

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            self._pieces.clear()
        else:
            self._pieces.append(piece)
