"""Pages of lists: their sizes, their tokens, and what fits into one message. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Protocol, TypeVar

from agent.errors import InvalidRequestError, PageTokenError

PAGE_BYTES = 3 << 20
"""Bytes of the items on one page at most, unless a single one is larger; clients accept 4 MiB a message."""

_DIGEST_SIZE = 8
_NUMBER = re.compile(rb"[0-9]{1,18}")


class _Sized(Protocol):
    def ByteSize(self) -> int: ...  # noqa: N802


_Message = TypeVar("_Message", bound=_Sized)


def page_size(requested: int, default: int, maximum: int) -> int:
    """Returns how many items a page has at most.

    Raises:
        InvalidRequestError: a negative number is requested.
    """
    if requested < 0:
        raise InvalidRequestError(f"page_size {requested} is negative", hint=f"0 asks for {default}")
    return min(requested or default, maximum)


def make_token(scope: bytes, place: bytes) -> str:
    """Returns the token of the page that begins after ``place`` in the list called ``scope``."""
    return base64.urlsafe_b64encode(_digest(scope, place) + place).decode("ascii")


def read_token(token: str, scope: bytes) -> bytes:
    """Returns the place that a token stands for; empty for an empty token.

    Raises:
        PageTokenError: it was not made by ``make_token`` for the same list.
    """
    if not token:
        return b""
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise PageTokenError("the page token is damaged") from error
    digest, place = raw[:_DIGEST_SIZE], raw[_DIGEST_SIZE:]
    if digest != _digest(scope, place):
        raise PageTokenError("the page token belongs to another listing")
    return place


def read_number(place: bytes) -> int:
    """Returns the number that a token's place is; 0 for an empty place.

    Raises:
        PageTokenError: it is none, so the token was made by somebody else.
    """
    if not _NUMBER.fullmatch(place or b"0"):
        raise PageTokenError("the page token is damaged")
    return int(place or b"0")


def read_text(place: bytes) -> str:
    """Returns the text that a token's place is.

    Raises:
        PageTokenError: it is none, so the token was made by somebody else.
    """
    try:
        return place.decode("ascii")
    except UnicodeDecodeError as error:
        raise PageTokenError("the page token is damaged") from error


def fitting(messages: Iterable[_Message]) -> list[_Message]:
    """Returns as many of the first messages as fit on one page, and at least one."""
    fit: list[_Message] = []
    left = PAGE_BYTES
    for message in messages:
        # A repeated message costs its size and up to 6 bytes of tag and length.
        left -= message.ByteSize() + 6
        if left < 0 and fit:
            break
        fit.append(message)
    return fit


def _digest(scope: bytes, place: bytes) -> bytes:
    return hashlib.blake2b(len(scope).to_bytes(8, "big") + scope + place, digest_size=_DIGEST_SIZE).digest()
