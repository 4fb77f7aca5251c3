"""Connections of the stream engine that it lends to other processes, for as long as each carries enough."""

from __future__ import annotations

import threading
import time

from agent.storage.keys import check_key
from agent.storage.loan import Arrival, Lent, Loan
from agent.storage.retry import Endurance, RetryPolicy
from agent.storage.stream_pool import Pool
from agent.storage.stream_requests import RefusedError, Requests

LONGEST_WAIT = 4e-9
"""Seconds a byte that a store is waited for at most: a connection must carry 250 MB/s when it is read without a pause.

Over many slow ones, of which each object gets several, the engine fetches more than a few processes with one each.
"""

JUDGED_BYTES = 128 << 20
"""After how many bytes that is judged: new connections begin slowly."""


class StreamLoans:
    """Lends connections for whole objects. For any thread.

    Args:
        pool: whose connections they count among.
        requests: what is said to the store.
        policy: how long the engine tries.
    """

    def __init__(self, pool: Pool, requests: Requests, policy: RetryPolicy) -> None:
        self._pool = pool
        self._requests = requests
        self._policy = policy
        self._lock = threading.Lock()
        self._bytes = 0
        self._waited = 0.0
        self._is_over = False

    @property
    def are_given(self) -> bool:
        """Whether connections are lent; once they are not, they never are again."""
        return not self._is_over

    @property
    def bytes_moved(self) -> int:
        """Bytes of the objects that came over lent connections."""
        with self._lock:
            return self._bytes

    def lend(self, key: str, size: int) -> Lent | None:
        """Lends a connection for an object, blocking until one is free; ``None`` if none is lent.

        Raises:
            CancelledError: the engine was aborted.
        """
        check_key(key)
        if self._is_over or not self._pool.lend():
            return None
        try:
            request = self._requests.get(key, 0, None)
        except RefusedError:  # fetching it the other way says so
            self._pool.take_back()
            return None
        patience, _ = Endurance(self._policy).begin(time.monotonic())
        address = self._requests.address
        loan = Loan(address.host, address.port, address.is_tls, request, size, patience)
        return Lent(loan, lambda arrival: self._take_back(size, arrival))

    def _take_back(self, size: int, arrival: Arrival | None) -> None:
        self._pool.take_back()
        with self._lock:
            if arrival is None:
                self._is_over = True
                return
            self._bytes += size
            self._waited += arrival.waited
            if self._bytes >= JUDGED_BYTES and self._waited > self._bytes * LONGEST_WAIT:
                self._is_over = True
