"""The store as the control side sees it: small objects, listings, facts about objects.

Chunks are moved by a transfer engine (``agent.storage.engine``); everything else goes through here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec


class ObjectInfo(msgspec.Struct, frozen=True):
    """One object: its key below the repository's prefix, size in bytes, and age by the store's clock (epoch ns).

    Stores know whole seconds only, and the same object's time may be given more finely in a listing than elsewhere:
    whatever compares times of objects uses ``modified_s``.
    """

    key: str
    size: int
    modified_ns: int

    @property
    def modified_s(self) -> int:
        """When the object got its present bytes, by the store's clock: whole seconds since 1970."""
        return self.modified_ns // 10**9


class Deadline(msgspec.Struct, frozen=True):
    """Until when a request may be carried out, by the store's clock.

    Attributes:
        begin_s: when that time begins: the store's clock, never ahead of it.
        seconds: how long it lasts.
    """

    begin_s: int
    seconds: int


class Store(Protocol):
    """A repository's objects. Keys are relative to the repository's prefix and use '/' as separator.

    Every method may be called from several threads at once, and may raise BucketNotFoundError,
    StorageAccessDeniedError, StorageUnavailableError (after its own retries) or, where an object is named,
    ObjectNotFoundError.
    """

    @property
    def location(self) -> str:
        """How messages name the store, such as ``s3://bucket/prefix`` or a folder."""
        ...

    @property
    def clock_ahead_ns(self) -> int:
        """Nanoseconds that the store's clock is ahead of this machine's; 0 until it has refused a request for that."""
        ...

    def check(self) -> None:
        """Makes sure that the bucket exists and answers with these credentials; writes nothing."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yields every object whose key begins with ``prefix``, by ascending key."""
        ...

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yields the distinct next components below ``prefix`` (which ends in '/'), ascending, without '/'.

        A folder whose last object was deleted may still be named: some servers keep it for a while.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Returns the facts about one object."""
        ...

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Returns ``length`` bytes from ``offset`` (fewer at the end of the object); ``None`` for all the rest."""
        ...

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Returns the last ``length`` bytes (or all, if it has fewer) and the object's whole size."""
        ...

    def download(self, key: str, path: str) -> None:
        """Writes the whole object to a new local file, with bounded memory."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Stores a small object and returns once the store has confirmed it."""
        ...

    def upload(self, key: str, path: str) -> None:
        """Stores a local file with bounded memory and returns once the store has confirmed it."""
        ...

    def upload_before(self, key: str, path: str, deadline: Deadline) -> None:
        """Stores a local file as ``upload`` does, with one request that the store refuses after the deadline.

        However long this process, or the request on its way, is held up: the object never appears much later.

        Raises:
            DeadlinePassedError: the store refused it.
        """
        ...

    def copy(self, source: str, key: str) -> None:
        """Stores a copy of an object under another key; its age begins anew. No byte passes through here."""
        ...

    def delete(self, key: str) -> None:
        """Deletes an object; one that does not exist is no error."""
        ...

    def delete_if_older(self, key: str, than_s: int, deadline: Deadline) -> int | None:
        """Deletes an object that was last stored before the second ``than_s``; never after the deadline.

        Returns:
            The bytes it had; ``None`` if it does not exist or is not older, so that nothing was deleted.

        Raises:
            DeadlinePassedError: the store refused it.
        """
        ...

    def demand_deadlines(self, seconds: int) -> None:
        """Makes sure that what depends on a deadline which passed more than ``seconds`` ago cannot happen any more.

        Raises:
            DeadlinesIgnoredError: the store carries out requests whose time is over.
        """
        ...

    def close(self) -> None:
        """Closes connections."""
        ...
