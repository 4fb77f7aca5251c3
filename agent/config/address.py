"""Addresses to listen on: a Unix socket, or a port on loopback."""

from __future__ import annotations

import ipaddress
import os

import msgspec

# sun_path holds 108 bytes with the final NUL.
_SOCKET_PATH_LIMIT = 107


class UnixAddress(msgspec.Struct, frozen=True):
    """A Unix socket, by its absolute path."""

    path: str


class TcpAddress(msgspec.Struct, frozen=True):
    """A TCP port; port 0 takes any free one."""

    host: str
    port: int


def parse_listen(text: str) -> UnixAddress | TcpAddress:
    """Parses ``unix:PATH`` or ``HOST:PORT`` with a host on loopback.

    Raises:
        ValueError: it is neither; the message says what is allowed.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not os.path.isabs(path) or len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
            raise ValueError(f"unix: and an absolute path of at most {_SOCKET_PATH_LIMIT} bytes")
        return UnixAddress(path)
    return parse_loopback(text)


def parse_loopback(text: str) -> TcpAddress:
    """Parses ``HOST:PORT`` with a host on loopback; IPv6 addresses stand in brackets.

    Raises:
        ValueError: it is not; the message says what is allowed.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or len(port) > 5 or int(port) > 65535:
        raise ValueError("HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:7447, or unix:PATH")
    if not _is_loopback(host):
        raise ValueError("a host on loopback (127.0.0.1, [::1] or localhost), as there is no TLS to protect any other")
    return TcpAddress(host.strip("[]"), int(port))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        if host.startswith("[") and host.endswith("]"):
            return ipaddress.IPv6Address(host[1:-1]).is_loopback
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False
