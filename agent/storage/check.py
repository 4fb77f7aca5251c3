"""Tries a store step by step, so that a person sees what works and what does not. Blocks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import msgspec

from agent.errors import ErrorInfo, GpusnapError, StorageUnavailableError, describe
from agent.storage.store import Store

CHECK_PREFIX = "gpusnap-check-"
"""How the key of the object begins that is written to try a store."""


class CheckStep(msgspec.Struct, frozen=True):
    """One thing that was tried: its name, the seconds it took, and what went wrong (``None`` if nothing)."""

    name: str
    seconds: float
    error: ErrorInfo | None


def check_steps(store: Store) -> list[CheckStep]:
    """Returns one item a step: bucket, write, read, list, delete; after one that failed no further ones.

    The small object it writes is called ``gpusnap-check-<random>`` and is deleted even if reading or listing it failed.
    """
    key = f"{CHECK_PREFIX}{secrets.token_hex(8)}"
    data = secrets.token_bytes(1024)
    steps: list[tuple[str, Callable[[], None]]] = [
        ("bucket", store.check),
        ("write", lambda: store.write(key, data)),
        ("read", lambda: _read(store, key, data)),
        ("list", lambda: _find(store, key)),
        ("delete", lambda: store.delete(key)),
    ]
    done: list[CheckStep] = []
    for name, attempt in steps:
        begin = time.monotonic()
        error = _error_of(attempt)
        done.append(CheckStep(name, time.monotonic() - begin, error))
        if error:
            if name in ("read", "list"):
                _error_of(lambda: store.delete(key))
            break
    return done


def _error_of(attempt: Callable[[], None]) -> ErrorInfo | None:
    try:
        attempt()
    except GpusnapError as error:
        return describe(error)
    return None


def _read(store: Store, key: str, data: bytes) -> None:
    if store.read(key) != data:
        raise StorageUnavailableError(f"{store.location}/{key} came back with other bytes than were written")


def _find(store: Store, key: str) -> None:
    if [found.key for found in store.list(key)] != [key]:
        raise StorageUnavailableError(f"{store.location}/{key} was written but is not listed")
