"""Fetches objects outside of the process that talks to the store, over the connections which that one lends.

Only what goes well is done here: whatever the store refuses, and what has to be waited for, is for who lent it.
"""

from __future__ import annotations

import ssl
import time

from agent.pipeline.occupation import processor_seconds
from agent.storage.http_head import BrokenAnswerError
from agent.storage.loan import Arrival, Loan
from agent.storage.retry import PROGRESS_BYTES
from agent.storage.stream_connection import Connection, StaleConnectionError
from agent.storage.trust import trust

SLOWEST = 64e6
"""Bytes a second below which a connection is given up: several together then bring an object sooner."""

SETTLE_SECONDS = 1.0
"""How long a connection has been read from before that is judged."""


class NotFetchedError(Exception):
    """An object did not come as it should; the engine that lent the connection can find out why."""


class Borrower:
    """Keeps the connection to the server of the last loan. For one thread."""

    def __init__(self) -> None:
        self._server: tuple[str, int, bool] | None = None
        self._connection: Connection | None = None
        self._trust: ssl.SSLContext | None = None

    def fetch(self, loan: Loan) -> Arriving:
        """Returns an object that is about to arrive; nothing is asked for yet."""
        server = (loan.host, loan.port, loan.is_tls)
        if self._connection is None or server != self._server:
            self.close()
            if loan.is_tls and self._trust is None:
                self._trust = trust()
            self._server = server
            self._connection = Connection(loan.host, loan.port, self._trust if loan.is_tls else None)
        return Arriving(loan, self._connection)

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Arriving:
    """An object that arrives in order, over one connection after another if one breaks or falls silent."""

    def __init__(self, loan: Loan, connection: Connection) -> None:
        self._loan = loan
        self._connection = connection
        self._is_open = False
        self._opened_at = 0
        self._position = 0
        self._attempts = 0
        self._reading = 0.0
        self._seconds = 0.0
        self._waited = 0.0

    @property
    def arrival(self) -> Arrival:
        """How it has come so far."""
        return Arrival(self._seconds, self._waited, self._attempts)

    def fill(self, room: memoryview) -> None:
        """Receives the next bytes, as many as ``room`` holds.

        Raises:
            NotFetchedError: they do not come, or come slowly.
        """
        begun, on_processor = time.monotonic(), processor_seconds()
        try:
            while room:
                room = room[self._some(room) :]
        finally:
            seconds = time.monotonic() - begun
            self._seconds += seconds
            self._waited += max(seconds - (processor_seconds() - on_processor), 0.0)

    def _some(self, room: memoryview) -> int:
        while True:
            try:
                if not self._is_open:
                    self._open()
                return self._read(room)
            except (OSError, BrokenAnswerError) as error:
                self._connection.close()
                self._is_open = False
                if self._position - self._opened_at < PROGRESS_BYTES:
                    raise NotFetchedError from error

    def _open(self) -> None:
        self._attempts += 1
        self._opened_at = self._position
        self._reading = 0.0
        self._connection.begin(self._loan.patience, self._loan.patience)
        request = self._loan.request_from(self._position)
        try:
            head = self._connection.request(request)
        except StaleConnectionError:
            head = self._connection.request(request)
        is_right = head.status == (206 if self._position else 200)
        if not is_right or head.part != (self._position, self._loan.size, self._loan.size):
            self._connection.close()
            raise NotFetchedError
        self._is_open = True

    def _read(self, room: memoryview) -> int:
        begun = time.monotonic()
        count = self._connection.read_into(room)
        if count == 0:
            raise BrokenAnswerError("the answer ended too soon")
        self._position += count
        self._reading += time.monotonic() - begun
        if self._reading > SETTLE_SECONDS and self._position - self._opened_at < self._reading * SLOWEST:
            self._connection.close()
            raise NotFetchedError
        return count
