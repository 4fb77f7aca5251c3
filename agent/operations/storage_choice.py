"""Which store a request uses: its own or the configured one, as the configuration permits."""

from __future__ import annotations

import msgspec

from agent.config.model import PerRequest, Provider, StorageConfig
from agent.config.provider import resolve
from agent.errors import ConfigError, InvalidRequestError, StorageNotConfiguredError, StorageNotPermittedError


def choose_storage(requested: StorageConfig | None, configured: StorageConfig) -> StorageConfig:
    """Returns the store to use.

    A requested store replaces the configured one as a whole; without credentials of its own it gets the agent's.

    Raises:
        StorageNotPermittedError: the configuration forbids a requested store, or demands one.
        StorageNotConfiguredError: no store is requested and none is configured.
        InvalidRequestError: the requested store is incomplete.
    """
    if requested is None:
        if configured.per_request is PerRequest.REQUIRE:
            raise StorageNotPermittedError(
                "the request names no storage, and this agent's configuration demands it",
                hint="name the storage in the request ([storage] per_request is require)",
            )
        if not configured.configured:
            raise StorageNotConfiguredError("no storage is configured, and the request names none")
        return configured
    if configured.per_request is PerRequest.FORBID:
        raise StorageNotPermittedError(
            "the request names its own storage, and this agent's configuration forbids it",
            hint="leave the storage out of the request ([storage] per_request is forbid)",
        )
    _check_requested(requested)
    if requested.credentials is None:
        return msgspec.structs.replace(requested, credentials=configured.credentials, profile=configured.profile)
    return requested


def _check_requested(storage: StorageConfig) -> None:
    if not storage.configured:
        missing = "endpoint, the folder" if storage.provider is Provider.LOCAL else "bucket"
        raise InvalidRequestError(f"the storage of the request has no {missing}")
    try:
        resolve(storage)
    except ConfigError as error:
        raise InvalidRequestError(f"the storage of the request: {error.message}") from error
    if storage.prefix.strip("/") != storage.prefix or not storage.prefix.isprintable():
        raise InvalidRequestError(f"storage.prefix {storage.prefix!r} has slashes at its ends or cannot be printed")
