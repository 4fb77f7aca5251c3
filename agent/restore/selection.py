"""Which paths of a snapshot are restored. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.errors import DataLossError, InvalidRequestError
from agent.repository.validate import check_path

FEW = 32
"""Choices whose prefixes are all compared with a path."""


class Selection:
    """The chosen paths with everything below them; without any, the whole snapshot.

    Raises:
        InvalidRequestError: a path is not relative to the workspace.
    """

    def __init__(self, paths: Sequence[bytes] = ()) -> None:
        self.paths = tuple(_clean(path) for path in paths)
        self.everything = not self.paths or b"" in self.paths
        self._chosen = frozenset(self.paths)
        # Quicker than looking at all folders above a path, but for very many choices.
        self._prefixes = tuple(path + b"/" for path in self.paths) if len(self.paths) <= FEW else ()
        self._above = frozenset(above for path in self.paths for above in _parents(path))

    def covers(self, path: bytes) -> bool:
        """Says whether an entry is chosen, or below one that is."""
        if self.everything or path in self._chosen:
            return True
        if self._prefixes:
            return path.startswith(self._prefixes)
        return any(above in self._chosen for above in _parents(path))

    def is_above(self, path: bytes) -> bool:
        """Says whether something below an entry is chosen."""
        return path in self._above


def _parents(path: bytes) -> list[bytes]:
    """Returns the folders above a path, the workspace itself (empty) among them."""
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(len(parts))] if path else []


def _clean(path: bytes) -> bytes:
    cleaned = path.removeprefix(b"./").rstrip(b"/")
    if cleaned in (b"", b".") and not path.startswith(b"/"):
        return b""
    try:
        check_path(cleaned)
    except DataLossError as error:
        raise InvalidRequestError(f"the path {path!r} is not relative to the workspace") from error
    return cleaned
