"""The control side's store in an S3 bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from agent.config.model import StorageConfig
from agent.config.provider import ResolvedStorage
from agent.errors import BucketNotFoundError, ObjectNotFoundError
from agent.storage.http_head import BrokenAnswerError, Head
from agent.storage.keys import check_key, clean_prefix, join
from agent.storage.local import new_local, write_local
from agent.storage.s3_deadline import RequestsBefore, demand_refusal, in_time, mapped
from agent.storage.s3_exchange import Exchange
from agent.storage.s3_listing import Page, http_time, parse_page
from agent.storage.sigv4 import UNSIGNED
from agent.storage.store import Deadline, ObjectInfo
from agent.storage.stream_connection import Connection
from agent.storage.stream_requests import refusal

PIECE_BYTES = 1 << 20
"""What a download holds in memory."""

PAGE_BYTES = 16 << 20
"""Bytes of one page of a listing at most: 1000 keys of 1 KiB, each byte percent-encoded, take about a quarter."""

READ_BYTES = 256 << 20
"""Bytes that are read into memory at once at most."""

_NOT_FOUND = frozenset({404})
_BEYOND_END = frozenset({416})
_REFUSED = frozenset({400, 401, 403})


class S3Store:
    """A repository below a prefix of a bucket.

    Args:
        storage: the bucket, the prefix and the credentials.
        resolved: its endpoint, region and addressing style.
        retry_seconds: how long a store that does not answer is tried.

    Raises:
        ConfigError: the prefix is not allowed, or AWS_CA_BUNDLE cannot be read.
    """

    def __init__(self, storage: StorageConfig, resolved: ResolvedStorage, retry_seconds: float) -> None:
        self._bucket = storage.bucket
        self._prefix = clean_prefix(storage.prefix)
        self._where = f"s3://{self._bucket} at {resolved.endpoint_url or 'AWS'}"
        self._exchange = Exchange(storage, resolved, retry_seconds)
        self._requests = self._exchange.requests
        self._before = RequestsBefore(self._exchange)

    @property
    def location(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{join(self._bucket, self._prefix)}".rstrip("/")

    @property
    def clock_ahead_ns(self) -> int:
        """What the store's refusals told."""
        return round(self._requests.clock.ahead * 1e9)

    def check(self) -> None:
        """Makes sure that the bucket exists and answers with these credentials."""

        def look() -> bytes:
            return self._requests.bucket("HEAD")

        status = self._exchange.ask("", look, _status, also=_NOT_FOUND | _REFUSED)
        if status in _REFUSED:
            # A HEAD has no body, and so no code: the same question as a GET says what is wrong.
            self._page(self._full(""), {"max-keys": "1"})
        elif status in _NOT_FOUND:
            raise BucketNotFoundError(f"{self._where}: the bucket does not exist")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yields every object whose key begins with ``prefix``, by ascending key."""
        skip = len(self._full(""))
        for page in self._pages(self._full(prefix), {}):
            for item in page.objects:
                if item.key[skip:]:  # a marker of the prefix itself is no object of the repository
                    yield ObjectInfo(item.key[skip:], item.size, item.modified_ns)

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yields the distinct next components below ``prefix``."""
        full = self._full(prefix)
        for page in self._pages(full, {"delimiter": "/"}):
            for folder in page.folders:
                yield folder[len(full) :].rstrip("/")

    def head(self, key: str) -> ObjectInfo:
        """Returns the facts about one object."""

        def take(_: Connection, head: Head) -> ObjectInfo:
            if head.length is None:
                raise BrokenAnswerError("the store does not say how large the object is")
            return ObjectInfo(key, head.length, http_time(head.headers.get("last-modified", "")))

        try:
            return self._exchange.ask(key, lambda: self._requests.about("HEAD", check_key(key)), take)
        except ObjectNotFoundError:
            self.check()  # the answer to a HEAD does not say whether the object or the bucket is missing
            raise

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Returns ``length`` bytes from ``offset``, or all the rest."""
        if length == 0:
            self.head(key)
            return b""
        end = None if length is None else offset + length

        def take(connection: Connection, head: Head) -> tuple[bytes, int] | None:
            return _part(connection, head, lambda size: (offset, size if end is None else min(end, size)))

        found = self._exchange.ask(key, lambda: self._requests.get(key, offset, end), take, also=_BEYOND_END)
        return found[0] if found is not None else b""

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Returns the last ``length`` bytes and the whole size."""
        if length == 0:
            return b"", self.head(key).size
        wanted = {"range": f"bytes=-{length}"}

        def take(connection: Connection, head: Head) -> tuple[bytes, int] | None:
            return _part(connection, head, lambda size: (max(size - length, 0), size))

        found = self._exchange.ask(key, lambda: self._requests.about("GET", key, wanted), take, also=_BEYOND_END)
        return found if found is not None else (b"", self.head(key).size)

    def download(self, key: str, path: str) -> None:
        """Writes the object to a new local file; a broken connection is continued where it broke."""
        with new_local(path) as file:
            version = ""

            def take(connection: Connection, head: Head) -> None:
                nonlocal version
                before, version = version, head.headers.get("etag", "")
                begin, _, size = head.part if head.status not in _BEYOND_END else (-1, 0, 0)
                if begin != file.tell() or before not in ("", version):
                    file.seek(0)
                    file.truncate()
                    raise BrokenAnswerError("the store sent another part of the object, or of another object")
                buffer = memoryview(bytearray(PIECE_BYTES))
                while file.tell() < size:
                    count = connection.read_into(buffer[: size - file.tell()])
                    if not count:
                        raise BrokenAnswerError(f"the answer ended after {file.tell()} bytes of the object")
                    write_local(file, bytes(buffer[:count]))

            self._exchange.ask(key, lambda: self._requests.get(key, file.tell(), None), take, also=_BEYOND_END)

    def write(self, key: str, data: bytes) -> None:
        """Stores a small object."""
        self._put(key, memoryview(data))

    def upload(self, key: str, path: str) -> None:
        """Stores a local file with one PUT."""
        self._put(key, mapped(path))

    def upload_before(self, key: str, path: str, deadline: Deadline) -> None:
        """Stores a local file with one request that the store refuses after the deadline."""
        in_time(self, deadline, lambda: self._before.put(key, path, deadline))

    def copy(self, source: str, key: str) -> None:
        """Stores a copy of an object under another key, inside the store."""

        def take(connection: Connection, head: Head) -> None:
            text = connection.read_text()
            if "<Error" in text:  # what fails after the head was sent
                raise refusal(head, text)

        self._exchange.ask(source, lambda: self._requests.copy(source, key), take)

    def delete(self, key: str) -> None:
        """Deletes an object; one that does not exist is no error."""
        try:
            self._exchange.ask(key, lambda: self._requests.about("DELETE", key), _nothing)
        except ObjectNotFoundError:
            pass

    def delete_if_older(self, key: str, than_s: int, deadline: Deadline) -> int | None:
        """Deletes an object that is older; the store refuses that after the deadline, which began before the look."""
        try:
            found = self.head(key)
        except ObjectNotFoundError:
            return None
        if found.modified_s >= than_s:
            return None
        in_time(self, deadline, lambda: self._before.delete(key, deadline))
        return found.size

    def demand_deadlines(self, seconds: int) -> None:
        """Sends requests whose time is over; a store that keeps to deadlines refuses them."""
        demand_refusal(self, self._before)

    def close(self) -> None:
        """Closes the connections."""
        self._exchange.close()

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _put(self, key: str, body: memoryview) -> None:
        # Over http the store compares the bytes with a hash; TLS protects them anyway.
        payload = UNSIGNED if self._requests.is_tls else hashlib.sha256(body).hexdigest()
        self._exchange.ask(key, lambda: self._requests.put(key, len(body), payload), _nothing, body)

    def _pages(self, prefix: str, options: dict[str, str]) -> Iterator[Page]:
        token: dict[str, str] = {}
        while True:
            page = self._page(prefix, {**options, **token})
            yield page
            if not page.next:
                return
            token = {"continuation-token": page.next}

    def _page(self, prefix: str, options: dict[str, str]) -> Page:
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix, **options}
        return self._exchange.ask("", lambda: self._requests.bucket("GET", query), _listing)


def _status(_: Connection, head: Head) -> int:
    return head.status


def _nothing(connection: Connection, _: Head) -> None:
    connection.read_text()


def _listing(connection: Connection, _: Head) -> Page:
    return parse_page(connection.read_all(PAGE_BYTES))


def _part(connection: Connection, head: Head, wanted: Callable[[int], tuple[int, int]]) -> tuple[bytes, int] | None:
    """Returns the wanted bytes of an object, and its size; ``None`` if it ends before them.

    Args:
        wanted: says from the size where they begin and end.

    Raises:
        BrokenAnswerError: they did not come, or not all of what the answer's head promised.
    """
    if head.status in _BEYOND_END:
        connection.read_text()
        return None
    begin, end, size = head.part
    data = connection.read_all(READ_BYTES)
    if len(data) != end - begin:
        raise BrokenAnswerError(f"the answer has {len(data)} bytes of the object instead of {end - begin}")
    start, stop = wanted(size)
    if start < begin or stop > end:
        raise BrokenAnswerError(f"the store sent bytes {begin} to {end} instead of {start} to {stop}")
    return data[start - begin : max(stop, start) - begin], size
