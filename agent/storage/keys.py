"""Keys below a repository's prefix, and what may not be one."""

from __future__ import annotations

from agent.errors import InvalidRequestError


def check_key(key: str) -> str:
    """Returns ``key`` if it can be an object's key in every kind of store.

    Raises:
        InvalidRequestError: it is empty, has a component that is empty, "." or "..", or holds NUL, CR or LF.
    """
    if any(part in ("", ".", "..") for part in key.split("/")) or any(bad in key for bad in "\0\r\n"):
        raise InvalidRequestError(f"the object key {key!r} is not allowed")
    return key


def join(prefix: str, key: str) -> str:
    """Returns ``key`` below ``prefix``; either may be empty."""
    return f"{prefix}/{key}" if prefix else key


def clean_prefix(prefix: str) -> str:
    """Returns a repository's prefix without slashes at its ends.

    Raises:
        InvalidRequestError: see ``check_key``.
    """
    prefix = prefix.strip("/")
    return check_key(prefix) if prefix else ""
