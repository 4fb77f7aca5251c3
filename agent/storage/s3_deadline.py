"""Requests to an S3 store that the store refuses once their time is over.

They are signed in their query with a time and a validity. A process that was stopped, or a request that was held up on
its way, then changes nothing any more, whatever happened in the meantime.
"""

from __future__ import annotations

import mmap
import secrets
from collections.abc import Callable

from agent.config.model import StorageConfig
from agent.config.provider import ResolvedStorage
from agent.errors import DeadlinePassedError, DeadlinesIgnoredError, NoSpaceError, StorageAccessDeniedError
from agent.storage.clock import CLOCK, read_clock
from agent.storage.failure import Failure, FailureKind
from agent.storage.http_head import BrokenAnswerError
from agent.storage.local import open_local, size_of
from agent.storage.retry import ANSWER_SECONDS, SHORTEST_SECONDS, STALL_SECONDS, RetryPolicy
from agent.storage.store import Deadline, Store
from agent.storage.stream_connection import Connection, StaleConnectionError
from agent.storage.stream_requests import RefusedError, Requests, refusal

LATE_SECONDS = 60
"""How late the requests are with which a store is tried."""

ONE_PUT_BYTES = 5 * 10**9
"""What S3 takes with one PUT. Parts have no time of their own: their end could come at any time."""


class RequestsBefore:
    """Sends requests with deadlines. For any thread.

    Args:
        storage: the bucket, the prefix and the credentials.
        resolved: its endpoint, region and addressing style.
        retry_seconds: how long a store that does not answer is tried.
    """

    def __init__(self, storage: StorageConfig, resolved: ResolvedStorage, retry_seconds: float) -> None:
        self._requests = Requests(storage, resolved)
        self._policy = RetryPolicy(retry_seconds)
        longest = max(retry_seconds / 2, SHORTEST_SECONDS)
        self._patience = min(STALL_SECONDS, longest), min(ANSWER_SECONDS, longest)

    def put(self, key: str, path: str, deadline: Deadline) -> None:
        """Stores a local file.

        Raises:
            StorageAccessDeniedError: the store refused it, perhaps as its time was over.
            GpusnapError: it failed otherwise.
        """
        size = size_of(path)
        if size > ONE_PUT_BYTES:
            raise NoSpaceError(f"{path} has {size:,} bytes, and a store takes {ONE_PUT_BYTES:,} with one request")
        with open_local(path) as file:
            # An empty file cannot be mapped.
            body = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if size else b"")
        self.put_bytes(key, body, deadline)

    def put_bytes(self, key: str, data: memoryview, deadline: Deadline) -> None:
        """Stores bytes; raises as ``put``."""
        self._send("PUT", key, data, deadline)

    def delete(self, key: str, deadline: Deadline) -> None:
        """Deletes an object; raises as ``put``."""
        self._send("DELETE", key, memoryview(b""), deadline)

    def _send(self, method: str, key: str, body: memoryview, deadline: Deadline) -> None:
        def attempt() -> None:
            connection = self._requests.connection()
            try:
                self._exchange(connection, lambda: self._requests.before(method, key, len(body), deadline), body)
            except RefusedError as error:
                raise self._requests.error(error.failure, key) from error
            except (OSError, BrokenAnswerError, StaleConnectionError) as error:
                text = str(error) or type(error).__name__
                raise self._requests.error(Failure(FailureKind.UNAVAILABLE, text), key) from error
            finally:
                connection.close()

        self._policy.call(attempt)

    def _exchange(self, connection: Connection, head: Callable[[], bytes], body: memoryview) -> None:
        connection.begin(*self._patience)
        answer = connection.request(head(), body)
        text = connection.read_text()
        if not 200 <= answer.status < 300:
            raise refusal(answer, text)


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
