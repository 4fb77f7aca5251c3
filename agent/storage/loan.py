"""What lets another process fetch an object over a connection of its own, and how that ends."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Loan(msgspec.Struct, frozen=True):
    """One connection, lent to another process for one object. Plain data: no keys, but a request that was signed.

    Attributes:
        host, port, is_tls: the server.
        request: asks for the whole object; as every range header stands outside of the signature, also for a part.
        size: the object's expected bytes.
        patience: seconds that the connection may be silent.
    """

    host: str
    port: int
    is_tls: bool
    request: bytes
    size: int
    patience: float

    def request_from(self, position: int) -> bytes:
        """Returns the request for the bytes from ``position``."""
        if position == 0:
            return self.request
        return self.request[:-2] + f"range: bytes={position}-\r\n\r\n".encode()


class Arrival(msgspec.Struct, frozen=True):
    """How an object came over a lent connection.

    Attributes:
        seconds: how long receiving it took.
        waited: of these, how long the store was waited for.
        attempts: how often it was asked for, from where the attempt before had ended.
    """

    seconds: float
    waited: float
    attempts: int


class Lent:
    """A connection that is lent.

    Args:
        loan: what the other process is told.
        end: called once, with how the object came, or without that.
    """

    def __init__(self, loan: Loan, end: Callable[[Arrival | None], None]) -> None:
        self.loan = loan
        self._end: Callable[[Arrival | None], None] | None = end

    def give_back(self, arrival: Arrival | None = None) -> None:
        """Ends the loan; without an arrival the object did not come. Further calls do nothing."""
        end, self._end = self._end, None
        if end is not None:
            end(arrival)
