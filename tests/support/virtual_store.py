"""A store in memory whose clock moves only when a test says so, and whose every request waits for its turn.

No real store can be had with that: it is for trying orders of events that differ by days, and for finding bad ones.
It is as unkind as stores may be: a listing is made of pages with anything in between, an upload gets its time when it
arrives and is seen later, and a delete is carried out some time after it was accepted.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterator

from agent.errors import DeadlinePassedError, ObjectNotFoundError, StorageUnavailableError
from agent.storage.store import Deadline, ObjectInfo
from tests.support.damage import flipped

PAGE = 3
"""Objects on one page of a listing."""

Turn = Callable[[str], None]
"""Called before anything happens to the objects, with what that is; returns when it may happen."""


def at_once(_: str) -> None:
    """Lets everything happen at once."""


class Objects:
    """The objects that all stores of a test share.

    Attributes:
        now: the store's clock in seconds.
        body_seconds: how long after its arrival an upload is still taken.
        delete_seconds: how long after it was accepted a delete may be carried out.
        listed_as: what listings show instead of an object, by its key: a bit was flipped on the way.
        damaged_reads: for each key, how many of the next reads of its object come with a flipped bit.
    """

    def __init__(self, now: float = 1_000_000.0, body_seconds: float = 1e9, delete_seconds: float = 1e9) -> None:
        self.now = now
        self.body_seconds = body_seconds
        self.delete_seconds = delete_seconds
        self.found: dict[str, tuple[bytes, int]] = {}
        self.listed_as: dict[str, ObjectInfo] = {}
        self.damaged_reads: dict[str, int] = {}

    def keys(self, prefix: str = "") -> list[str]:
        """Returns the keys that begin so."""
        return sorted(key for key in self.found if key.startswith(prefix))


class VirtualStore:
    """One process's way to the objects.

    Args:
        turn: called before each request, and once more before what it does is seen.
    """

    location = "virtual"

    def __init__(self, objects: Objects, turn: Turn = at_once) -> None:
        self.objects = objects
        self._turn = turn

    @property
    def clock_ahead_ns(self) -> int:
        """Always 0."""
        return 0

    def check(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yields page after page, each as it is when its turn comes."""
        last = ""
        while True:
            self._turn(f"list {prefix}")
            keys = self.objects.keys(prefix)
            page = keys[bisect.bisect_right(keys, last) if last else 0 :][:PAGE]
            yield from [self.objects.listed_as.get(key) or self._info(key) for key in page]
            if len(page) < PAGE:
                return
            last = page[-1]

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yields the folders of ``list``."""
        yield from dict.fromkeys(found.key.removeprefix(prefix).split("/")[0] for found in self.list(prefix))

    def head(self, key: str) -> ObjectInfo:
        """Returns the facts about one object."""
        self._turn(f"head {key}")
        return self._info(key)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Returns a part of an object."""
        self._turn(f"read {key}")
        self._info(key)
        data = self.objects.found[key][0]
        if self.objects.damaged_reads.get(key, 0):
            self.objects.damaged_reads[key] -= 1
            data = flipped(data, len(data) // 2)
        return data[offset:] if length is None else data[offset : offset + length]

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Returns the end of an object and its size."""
        data = self.read(key)
        return data[-length:] if length else b"", len(data)

    def download(self, key: str, path: str) -> None:
        """Writes an object to a new file."""
        with open(path, "xb") as file:
            file.write(self.read(key))

    def write(self, key: str, data: bytes) -> None:
        """Stores an object; it is seen some time after its arrival, which gives it its time."""
        self._turn(f"write {key}")
        arrived = self.objects.now
        if data:
            self._turn(f"written {key}")
        if self.objects.now - arrived > self.objects.body_seconds:
            raise StorageUnavailableError(f"{key}: the store gave up waiting for the body")
        self.objects.found[key] = data, int(arrived)

    def upload(self, key: str, path: str) -> None:
        """Stores a file."""
        with open(path, "rb") as file:
            self.write(key, file.read())

    def upload_before(self, key: str, path: str, deadline: Deadline) -> None:
        """Stores a file if the request arrives in time."""
        self._turn(f"upload {key}")
        self._demand(deadline)
        self.upload(key, path)

    def copy(self, source: str, key: str) -> None:
        """Copies an object."""
        self._turn(f"copy {source}")
        self._info(source)
        self.objects.found[key] = self.objects.found[source][0], int(self.objects.now)

    def delete(self, key: str) -> None:
        """Deletes an object."""
        self._turn(f"delete {key}")
        self.objects.found.pop(key, None)

    def delete_if_older(self, key: str, than_s: int, deadline: Deadline) -> int | None:
        """Looks at an object, and then deletes it if the request arrives in time."""
        try:
            found = self.head(key)
        except ObjectNotFoundError:
            return None
        if found.modified_s >= than_s:
            return None
        self._turn(f"send delete {key}")
        self._demand(deadline)
        accepted = self.objects.now
        self._turn(f"delete {key}")
        if self.objects.now - accepted > self.objects.delete_seconds:
            raise StorageUnavailableError(f"{key}: the store broke down over a delete")
        self.objects.found.pop(key, None)
        return found.size

    def demand_deadlines(self, seconds: int) -> None:
        """Does nothing: this store keeps to them."""

    def _info(self, key: str) -> ObjectInfo:
        if key not in self.objects.found:
            raise ObjectNotFoundError(f"{key} does not exist")
        data, modified = self.objects.found[key]
        return ObjectInfo(key, len(data), modified * 10**9)

    def _demand(self, deadline: Deadline) -> None:
        if int(self.objects.now) > deadline.begin_s + deadline.seconds:
            raise DeadlinePassedError("its time was over")


def scratch_file(folder: str, data: bytes) -> str:
    """Writes a new file and returns its path."""
    path = os.path.join(folder, os.urandom(8).hex())
    with open(path, "xb") as file:
        file.write(data)
    return path
