"""Asks an S3 store one thing at a time, over kept connections, and tries again while it does not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from agent.config.model import StorageConfig
from agent.config.provider import ResolvedStorage
from agent.errors import StorageUnavailableError
from agent.storage.failure import broken
from agent.storage.http_head import BrokenAnswerError, Head
from agent.storage.retry import ANSWER_SECONDS, SHORTEST_SECONDS, RetryPolicy
from agent.storage.stream_connection import Connection, StaleConnectionError
from agent.storage.stream_requests import RefusedError, Requests

KEPT_CONNECTIONS = 16

_T = TypeVar("_T")

Take = Callable[[Connection, Head], _T]
"""Takes the answer: reads its body from the connection."""


class Exchange:
    """Sends requests and understands answers. For any thread.

    Args:
        storage: the bucket, the prefix and the credentials.
        resolved: its endpoint, region and addressing style.
        retry_seconds: how long a store that does not answer is tried.

    Attributes:
        requests: makes the requests.
    """

    def __init__(self, storage: StorageConfig, resolved: ResolvedStorage, retry_seconds: float) -> None:
        self.requests = Requests(storage, resolved)
        self._policy = RetryPolicy(retry_seconds)
        self._patience = min(ANSWER_SECONDS, max(retry_seconds / 2, SHORTEST_SECONDS))
        self._lock = threading.Lock()
        self._idle: list[Connection] = []

    def ask(
        self,
        key: str,
        request: Callable[[], bytes],
        take: Take[_T],
        body: memoryview | None = None,
        also: frozenset[int] = frozenset(),
    ) -> _T:
        """Sends a request until it is answered, and returns what ``take`` made of the answer.

        Args:
            key: the object that errors name; empty for the bucket.
            request: makes the request; called for each try, as its signature has a time.
            take: called for answers that are no refusals, again if it fails with BrokenAnswerError or OSError.
            body: what is sent after it.
            also: statuses outside 2xx that are no refusals.

        Raises:
            GpusnapError: the store refused it, or did not answer for longer than the retries last.
        """
        return self._policy.call(lambda: self._attempt(key, request, take, body, also), _wish)

    def close(self) -> None:
        """Closes the kept connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _attempt(
        self, key: str, request: Callable[[], bytes], take: Take[_T], body: memoryview | None, also: frozenset[int]
    ) -> _T:
        with self._lock:
            connection = self._idle.pop() if self._idle else self.requests.connection()
        try:
            return self._exchange(connection, request, take, body, also)
        except RefusedError as error:
            raise self.requests.error(error.failure, key) from error
        except (OSError, BrokenAnswerError, StaleConnectionError) as error:
            connection.close()
            raise self.requests.error(broken(error), key) from error
        except BaseException:
            connection.close()  # in the middle of an answer
            raise
        finally:
            self._keep(connection)

    def _exchange(
        self, connection: Connection, request: Callable[[], bytes], take: Take[_T], body: memoryview | None,
        also: frozenset[int],
    ) -> _T:  # fmt: skip
        connection.begin(self._patience, self._patience)
        sent, pieces = request(), None if body is None else [body]
        try:
            head = connection.request(sent, pieces)
        except StaleConnectionError:
            head = connection.request(sent, pieces)  # over a new connection, which cannot be stale
        if not 200 <= head.status < 300 and head.status not in also:
            raise self.requests.refused(sent, head, connection.read_text())
        return take(connection, head)

    def _keep(self, connection: Connection) -> None:
        with self._lock:
            if len(self._idle) < KEPT_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()


def _wish(error: StorageUnavailableError) -> float:
    """Returns how many seconds the store asked to wait."""
    refused = error.__cause__
    return refused.wish if isinstance(refused, RefusedError) else 0.0
