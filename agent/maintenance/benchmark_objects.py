"""The objects of benchmarks in a store: made up, told from each other, and always removed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from agent.errors import DataLossError
from agent.pipeline.memory import anonymous
from agent.repository import keys
from agent.storage.engine import Outgoing
from agent.storage.store import ObjectInfo, Store

MARK_BYTES = 32
"""What an object has for itself, at its beginning."""

PIECE_BYTES = 4 << 20
"""Bytes that are written and received at once, as those of chunks are."""

DELETED_AT_ONCE = 16

STRANGER_SECONDS = 24 * 3600
"""Objects of benchmarks that this agent does not know are removed when they are so much older than its own."""


class BenchmarkObjects:
    """The objects of one benchmark.

    Args:
        store: where they are.
        operation: the benchmark's name.
        size: bytes of each.
        check: called now and then; raises what shall end all.
    """

    def __init__(self, store: Store, operation: str, size: int, check: Callable[[], None]) -> None:
        self._store = store
        self._own = f"{keys.BENCHMARK}{operation}/"
        self._check = check
        # Random, so that nothing on the way can compress it.
        self._content = anonymous(max(size, MARK_BYTES))[:size]
        for start in range(0, size, PIECE_BYTES):
            piece = self._content[start : start + PIECE_BYTES]
            piece[:] = os.urandom(len(piece))

    def keys(self, round_number: int, engine: str, count: int) -> list[str]:
        """Returns the keys of what one engine stores in one round."""
        return [f"{self._own}{round_number}-{engine}-{number:05}" for number in range(count)]

    def write(self, outgoing: Outgoing, key: str) -> None:
        """Writes the object with this key."""
        for piece in self.source(key).pieces():
            self._check()
            outgoing.write(piece)

    def source(self, key: str) -> MadeUp:
        """Returns the object with this key, for an upload that holds none of it."""
        return MadeUp(self.beginning(key), self._content)

    def beginning(self, key: str) -> bytes:
        """Returns what the object with this key begins with: that tells objects apart that are alike otherwise."""
        return hashlib.blake2b(key.encode(), digest_size=MARK_BYTES).digest()[: len(self._content)]

    @property
    def end(self) -> memoryview:
        """What all objects end with: a piece, or all that follows on the beginning if that is less."""
        return self._content[max(len(self._content) - PIECE_BYTES, min(MARK_BYTES, len(self._content))) :]

    def is_right(self, key: str, view: memoryview) -> bool:
        """Says whether ``view`` may be the object with this key: its size, its beginning and its end."""
        size, mark, end = len(self._content), self.beginning(key), self.end
        return len(view) == size and view[: len(mark)] == mark and view[size - len(end) :] == end

    def remove(self, names: Iterable[str]) -> None:
        """Deletes objects; those that are not there are no error."""
        with ThreadPoolExecutor(DELETED_AT_ONCE, thread_name_prefix="delete") as pool:
            list(pool.map(self._store.delete, names))

    def remove_leftovers(self, earlier: Collection[str]) -> None:
        """Deletes what an earlier run of this benchmark, and what earlier ones that were killed, left."""
        own = self._own.removeprefix(keys.BENCHMARK).rstrip("/")
        for folder in self._store.list_folders(keys.BENCHMARK):
            self._check()
            if folder == own or folder in earlier:
                self.remove(found.key for found in self._store.list(f"{keys.BENCHMARK}{folder}/"))

    def remove_all(self) -> None:
        """Deletes what this benchmark has stored, and what strangers left long ago."""
        found = list(self._store.list(keys.BENCHMARK))
        self.remove(removable(found, self._own))


class MadeUp:
    """One object of a benchmark: a mark, and what all of them share."""

    def __init__(self, mark: bytes, content: memoryview) -> None:
        self.size = len(content)
        self._mark = mark
        self._content = content

    def pieces(self) -> Iterator[memoryview]:
        """Yields its bytes."""
        yield memoryview(self._mark)
        for start in range(len(self._mark), self.size, PIECE_BYTES):
            yield self._content[start : start + PIECE_BYTES]

    def close(self) -> None:
        """Does nothing: the content is the benchmark's."""


def wrong_bytes(key: str) -> DataLossError:
    """Returns the error about an object that is not what was stored."""
    return DataLossError(f"object {key} came back with other bytes than were stored")


def removable(found: Collection[ObjectInfo], own: str) -> list[str]:
    """Returns the keys of what may be deleted of all benchmarks' objects. Ages are those of the store's clock."""
    newest = max((each.modified_ns for each in found if each.key.startswith(own)), default=0)
    return [
        each.key for each in found if each.key.startswith(own) or each.modified_ns < newest - STRANGER_SECONDS * 10**9
    ]
