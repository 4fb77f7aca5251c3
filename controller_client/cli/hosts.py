"""Which agents a command runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller_client.address import find_address, parse_address
from controller_client.errors import AddressError
from controller_client.names import show_text


class UsageError(Exception):
    """The command line, or a file it names, is wrong."""


@dataclass(frozen=True)
class Host:
    """One agent: how its lines are marked and where it is. ``given`` is whether its address was chosen explicitly."""

    name: str
    address: str
    given: bool = True


def choose_hosts(addresses: Sequence[str], fleet_file: str | None) -> tuple[Host, ...]:
    """Returns the agents of ``--agent`` and ``--fleet``, or the one that is found without them.

    Raises:
        UsageError: an address or the fleet file is wrong, or a name or an address is there twice.
    """
    hosts = [Host(address, address) for address in addresses]
    if fleet_file is not None:
        hosts += read_fleet(fleet_file)
    if not hosts:
        address = find_address()
        hosts = [Host(address, address, given=False)]
    for host in hosts:
        _check_address(host.address)
    _check_distinct(hosts)
    return tuple(hosts)


def read_fleet(path: str) -> list[Host]:
    """Returns the hosts of a fleet file: a name and an address a line; ``#`` begins a comment.

    Raises:
        UsageError: it cannot be read, names no host, or a line is malformed.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"fleet file {show_text(path)}: {reason} (name a readable text file)") from error
    hosts = [host for number, line in enumerate(lines, 1) if (host := _fleet_line(path, number, line)) is not None]
    if not hosts:
        raise UsageError(f"fleet file {show_text(path)}: no hosts in it (write one `name address` a line)")
    return hosts


def _fleet_line(path: str, number: int, line: str) -> Host | None:
    words = line.split("#", 1)[0].split()
    if not words:
        return None
    place = f"fleet file {show_text(path)}, line {number}"
    if len(words) != 2:
        raise UsageError(f"{place}: {len(words)} words (write `name address`)")
    try:
        parse_address(words[1])
    except AddressError as error:
        raise UsageError(f"{place}: {show_text(error.message)} ({error.hint})") from error
    return Host(words[0], words[1])


def _check_address(address: str) -> None:
    try:
        parse_address(address)
    except AddressError as error:
        raise UsageError(f"{show_text(error.message)} ({error.hint})") from error


def _check_distinct(hosts: Sequence[Host]) -> None:
    for what in ("name", "address"):
        seen: set[str] = set()
        for host in hosts:
            value: str = getattr(host, what)
            if value in seen:
                raise UsageError(f"{what} {show_text(value)}: given twice (name each agent once)")
            seen.add(value)
