"""Keys below a repository's prefix, and what may not be one."""

from __future__ import annotations

from agent.errors import ConfigError, InvalidRequestError


def check_key(key: str) -> str:
    """Returns ``key`` if it can be an object's key in every kind of store.

    Raises:
        InvalidRequestError: a component is empty, "." or "..", or it holds a backslash (which some stores take for a
            slash) or a control character.
    """
    if not _allowed(key):
        raise InvalidRequestError(f"the object key {key!r} is not allowed")
    return key


def join(prefix: str, key: str) -> str:
    """Returns ``key`` below ``prefix``; either may be empty."""
    return f"{prefix}/{key}" if prefix else key


def clean_prefix(prefix: str) -> str:
    """Returns a repository's prefix without slashes at its ends.

    Raises:
        ConfigError: it could not be the beginning of a key.
    """
    prefix = prefix.strip("/")
    if prefix and not _allowed(prefix):
        raise ConfigError(f"storage.prefix: {prefix!r} is not allowed; give names joined by '/', without backslashes")
    return prefix


def _allowed(key: str) -> bool:
    parts = key.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not any(c < " " or c == "\\" for c in key)
