"""Requests to an S3 store that the store refuses once their time is over.

They are signed in their query with a time and a validity. A process that was stopped, or a request that was held up on
its way, then changes nothing any more, whatever happened in the meantime.
"""

from __future__ import annotations

import base64
import hashlib
import mmap
import secrets
from collections.abc import Callable

from agent.errors import DeadlinePassedError, DeadlinesIgnoredError, NoSpaceError, StorageAccessDeniedError
from agent.storage.clock import CLOCK, read_clock
from agent.storage.local import open_local, size_of
from agent.storage.s3_exchange import Exchange
from agent.storage.store import Deadline, Store

LATE_SECONDS = 60
"""How late the requests are with which a store is tried."""

ONE_PUT_BYTES = 5 * 10**9
"""What S3 takes with one PUT. Nothing goes in parts: each provider has quirks there, and parts have no deadline."""


class RequestsBefore:
    """Sends requests with deadlines. For any thread; all may raise what ``Exchange.ask`` raises.

    A refusal for lateness is StorageAccessDeniedError.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def put(self, key: str, path: str, deadline: Deadline) -> None:
        """Stores a local file; raises NoSpaceError if it is too large for one request."""
        self.put_bytes(key, mapped(path), deadline)

    def put_bytes(self, key: str, data: memoryview, deadline: Deadline) -> None:
        """Stores bytes."""
        self._send("PUT", key, data, deadline)

    def delete(self, key: str, deadline: Deadline) -> None:
        """Deletes an object."""
        self._send("DELETE", key, memoryview(b""), deadline)

    def _send(self, method: str, key: str, body: memoryview, deadline: Deadline) -> None:
        # A query that is signed says nothing of the body.
        md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()

        def request() -> bytes:
            return self._exchange.requests.before(method, key, len(body), md5, deadline)

        self._exchange.ask(key, request, lambda connection, _: connection.read_text(), body)


def mapped(path: str) -> memoryview:
    """Returns the bytes of a local file that nobody else writes, without reading them.

    Raises:
        NoSpaceError: one request does not take so many.
        PathNotFoundError, LocalPermissionError, LocalIoError: it cannot be read.
    """
    size = size_of(path)
    if size > ONE_PUT_BYTES:
        raise NoSpaceError(f"{path} has {size:,} bytes, and a store takes {ONE_PUT_BYTES:,} with one request")
    with open_local(path) as file:
        # An empty file cannot be mapped.
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if size else b"")


def in_time(store: Store, deadline: Deadline, attempt: Callable[[], None]) -> None:
    """Tells a request that came too late from one that is never allowed: stores have no common code for that.

    Raises:
        DeadlinePassedError: the store refused it, and its time is over.
        GpusnapError: what ``attempt`` raises.
    """
    try:
        attempt()
    except StorageAccessDeniedError as error:
        if read_clock(store) < deadline.begin_s + deadline.seconds:
            raise
        raise DeadlinePassedError(f"{error.message}: its time was over") from error


def demand_refusal(store: Store, requests: RequestsBefore) -> None:
    """Sends an upload and a delete whose time is over.

    Raises:
        DeadlinesIgnoredError: the store carried one of them out.
        GpusnapError: the store fails.
    """
    key = f"{CLOCK}{secrets.token_hex(8)}"
    store.write(key, b"gpusnap looks whether this store refuses late requests\n")
    try:
        over = Deadline(store.head(key).modified_s - 2 * LATE_SECONDS, LATE_SECONDS)
        refused = (
            _is_refused(lambda: requests.put_bytes(key, memoryview(b"late\n"), over)),
            _is_refused(lambda: requests.delete(key, over)),
        )
        if not all(refused):
            raise DeadlinesIgnoredError(f"{store.location} carried out a request that had expired")
    finally:
        store.delete(key)


def _is_refused(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except StorageAccessDeniedError:
        return True
    return False
