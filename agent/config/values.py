"""How one value is read: from text (flags, variables) or from TOML. Every reader refuses with what is allowed."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable
from typing import TypeVar

from agent.config.address import parse_listen, parse_loopback

Raw = object
"""A value as TOML or text gave it, still to be judged."""
Value = str | int | float | enum.Enum | tuple[str, ...]
Reader = Callable[[Raw], Value]
"""Reads one given value, or raises NotAllowedError."""

E = TypeVar("E", bound=enum.Enum)

_SIZE = re.compile(r"([0-9]{1,15})\s*([KMGT]i?)?B?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_UNITS |= {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


class NotAllowedError(ValueError):
    """A value is not allowed; the message says what is."""


def show(raw: Raw) -> str:
    """Writes a value on one line, shortened if it is long."""
    try:
        written = repr(raw)
    except ValueError:  # Python does not write numbers of more than 4300 digits
        return "a value with a number of thousands of digits"
    return written if len(written) <= 120 else written[:117] + "..."


def text(raw: Raw) -> str:
    """Reads any text without control characters."""
    if not isinstance(raw, str):
        raise NotAllowedError("text in quotes")
    if not raw.isprintable():
        raise NotAllowedError("text in UTF-8 without control characters")
    return raw


def one_of(choices: type[E]) -> Callable[[Raw], E]:
    """Reads one of the values of an enum."""

    def read(raw: Raw) -> E:
        try:
            return choices(raw)
        except ValueError:
            raise NotAllowedError("one of " + ", ".join(str(choice.value) for choice in choices)) from None

    return read


def word(*words: str) -> Reader:
    """Reads one of some words."""

    def read(raw: Raw) -> str:
        if not isinstance(raw, str) or raw not in words:
            raise NotAllowedError("one of " + ", ".join(words))
        return raw

    return read


def whole(low: int, high: int) -> Reader:
    """Reads a whole number from ``low`` to ``high``."""
    allowed = f"a whole number from {low} to {high}"

    def read(raw: Raw) -> int:
        if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,15}", raw):
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise NotAllowedError(allowed)
        return raw

    return read


def yes_or_no(raw: Raw) -> bool:
    """Reads true or false."""
    chosen = {"true": True, "false": False}.get(raw, raw) if isinstance(raw, str) else raw
    if not isinstance(chosen, bool):
        raise NotAllowedError("true or false")
    return chosen


def seconds(low: float, high: float) -> Reader:
    """Reads a duration in seconds from ``low`` to ``high``."""
    allowed = f"seconds from {low:g} to {high:g}"

    def read(raw: Raw) -> float:
        if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", raw):
            raw = float(raw)
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise NotAllowedError(allowed)
        if not low <= raw <= high:  # nan is neither
            raise NotAllowedError(allowed)
        return float(raw)

    return read


def size(low: int, high: int) -> Reader:
    """Reads a size in bytes, a number or text such as "640MiB", from ``low`` to ``high``."""
    allowed = f"a size from {show_size(low)} to {show_size(high)}, such as {show_size(10 * low)}"

    def read(raw: Raw) -> int:
        if isinstance(raw, str):
            match = _SIZE.fullmatch(raw.strip())
            raw = int(match[1]) * _UNITS[(match[2] or "").lower()] if match else raw
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise NotAllowedError(allowed)
        return raw

    return read


def show_size(count: int) -> str:
    """Writes a size in the largest unit that it is a whole number of: 640 * 2**20 is "640MiB"."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def folder(raw: Raw) -> str:
    """Reads the absolute path of a folder."""
    allowed = "an absolute path"
    path = text(raw)
    if not os.path.isabs(path):
        raise NotAllowedError(allowed)
    return os.path.normpath(path)


def program(raw: Raw) -> str:
    """Reads the absolute path of a program, or nothing."""
    return folder(raw) if raw != "" else ""


def list_of(read_one: Callable[[Raw], Value], least: int) -> Reader:
    """Reads a list (in text: separated by commas) of at least ``least`` different items."""

    def read(raw: Raw) -> tuple[str, ...]:
        if isinstance(raw, str):
            raw = [item.strip() for item in raw.split(",")] if raw else []
        if not isinstance(raw, list):
            raise NotAllowedError("a list")
        try:
            items = tuple(str(read_one(item)) for item in raw)
        except NotAllowedError as error:
            raise NotAllowedError(f"for each item {error}") from None
        if len(items) < least:
            raise NotAllowedError(f"at least {least} item" + "s" * (least > 1))
        if len(set(items)) < len(items):
            raise NotAllowedError("each item once")
        return items

    return read


def listen_address(raw: Raw) -> str:
    """Reads an address of the control interface."""
    address = text(raw)
    try:
        parse_listen(address)
    except ValueError as error:
        raise NotAllowedError(str(error)) from None
    return address


def metrics_address(raw: Raw) -> str:
    """Reads the address of the metrics, or nothing."""
    address = text(raw)
    try:
        if address:
            parse_loopback(address)
    except ValueError as error:
        raise NotAllowedError(str(error)) from None
    return address


def suffix(raw: Raw) -> str:
    """Reads the ending of a name, such as ".bin"."""
    ending = text(raw).lower()
    if len(ending) < 2 or not ending.startswith(".") or "/" in ending:
        raise NotAllowedError("a name's ending such as .bin")
    return ending


def prefix(raw: Raw) -> str:
    """Reads the prefix of a repository; slashes at its ends mean nothing."""
    return text(raw).strip("/")
