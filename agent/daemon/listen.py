"""Beginning to listen: no two agents on one address, no socket left over in the way, and clear errors."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator

from agent.config.address import TcpAddress, UnixAddress
from agent.errors import ConfigError

SOCKET_MODE = 0o660
"""The owner's group may use the socket, nobody else."""

ANSWER_SECONDS = 1.0
"""How long an agent may take to accept a connection on a socket that is there already."""

Address = UnixAddress | TcpAddress
"""Where something listens."""


def written(address: Address) -> str:
    """Returns an address as gRPC, and a person, writes it."""
    if isinstance(address, UnixAddress):
        return f"unix:{address.path}"
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"


@contextlib.contextmanager
def claimed(address: Address, key: str) -> Iterator[None]:
    """Makes sure that nothing listens at ``address``, for the moment in which the caller begins to.

    A socket's file that nobody answers at is removed. Within the context, new files get ``SOCKET_MODE``.

    Raises:
        ConfigError: the address is in use, or cannot be used.
    """
    if isinstance(address, UnixAddress):
        _clear_socket(address, key)
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            yield
        finally:
            os.umask(before)
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: connections of a former agent that still linger are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
    except OSError as error:
        raise cannot_listen(address, key, error) from error
    yield


def cannot_listen(address: Address, key: str, error: OSError) -> ConfigError:
    """Returns what a failed attempt to listen means to a person."""
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"{key}: {written(address)} is in use by another program",
            hint="end that program (another agent?), or choose another address",
        )
    return ConfigError(f"{key}: cannot listen on {written(address)}: {error.strerror or error}")


def _clear_socket(address: UnixAddress, key: str) -> None:
    folder = os.path.dirname(address.path)
    try:
        os.makedirs(folder, exist_ok=True)
        mode = os.lstat(address.path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise cannot_listen(address, key, error) from error
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{key}: {address.path} is there and not a socket", hint="choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            os.unlink(address.path)
            return
        except OSError:
            # It exists and did not refuse: somebody has it, however busy.
            pass
    raise cannot_listen(address, key, OSError(errno.EADDRINUSE, "in use"))
