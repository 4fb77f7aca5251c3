"""Where an agent is: how addresses are written, and how one is found when none is given."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

from controller_client.errors import AddressError

ADDRESS_VARIABLE = "GPUSNAP_AGENT_ADDRESS"
DEFAULT_SOCKET = "/run/gpusnap/agent.sock"
DEFAULT_TCP = "127.0.0.1:7447"

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")
_HINT = "write HOST:PORT, such as 127.0.0.1:7447, or unix:/path/to/agent.sock"


def parse_address(text: str) -> str:
    """Checks an address and returns it as a gRPC target.

    >>> parse_address("unix:/run/gpusnap/agent.sock")
    'unix:/run/gpusnap/agent.sock'
    >>> parse_address("gpu-7:7447")
    'dns:///gpu-7:7447'

    Raises:
        AddressError: it is neither ``unix:/ABSOLUTE/PATH`` nor ``HOST:PORT`` (``[IPV6]:PORT``).
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise AddressError(f"agent address {text!r}: the path of the socket is not absolute", hint=_HINT)
        return f"unix:{os.path.normpath('/' + path.lstrip('/'))}"
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise AddressError(f"agent address {text!r}: neither HOST:PORT nor unix:PATH", hint=_HINT)
    if not 0 < int(match["port"]) < 65536:
        raise AddressError(f"agent address {text!r}: the port is not between 1 and 65535", hint=_HINT)
    return f"dns:///{text}"


def find_address(
    address: str | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    socket: str = DEFAULT_SOCKET,
) -> str:
    """Returns the address to use: the given one, then GPUSNAP_AGENT_ADDRESS, then the socket if it exists, then TCP."""
    if address:
        return address
    if environment.get(ADDRESS_VARIABLE):
        return environment[ADDRESS_VARIABLE]
    return f"unix:{socket}" if _is_socket(socket) else DEFAULT_TCP


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
