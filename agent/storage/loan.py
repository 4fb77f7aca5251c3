"""What lets another process fetch an object over a connection of its own. Plain data."""

from __future__ import annotations

import msgspec


class Loan(msgspec.Struct, frozen=True):
    """One connection, lent to another process for one object. It holds no keys, but a request that was signed.

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
