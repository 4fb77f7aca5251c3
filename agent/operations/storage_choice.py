"""Which store a request uses: its own or the configured one, as the configuration permits."""

from __future__ import annotations

import os
from typing import AnyStr

import msgspec

from agent.config.model import Config, PerRequest, Provider, StorageConfig
from agent.config.provider import resolve
from agent.errors import (
    ConfigError,
    InvalidRequestError,
    PathNotAllowedError,
    StorageNotConfiguredError,
    StorageNotPermittedError,
)


def choose_storage(requested: StorageConfig | None, config: Config) -> StorageConfig:
    """Returns the store to use; may look at folders, so it may block.

    A requested store replaces the configured one as a whole; without credentials of its own it gets the agent's, if it
    is at the same endpoint. A requested folder must lie where the agent may write anyway.

    Raises:
        StorageNotPermittedError: the configuration forbids a requested store, or demands one.
        StorageNotConfiguredError: no store is requested and none is configured.
        InvalidRequestError: the requested store is incomplete.
        PathNotAllowedError: the requested folder is outside the workspace roots and the configured store.
    """
    configured = config.storage
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
    if requested.provider is Provider.LOCAL:
        _check_folder(requested.endpoint, config)
    elif requested.credentials is None:
        _check_endpoint(requested, configured)
        return msgspec.structs.replace(requested, credentials=configured.credentials, profile=configured.profile)
    return requested


def _check_folder(folder: str, config: Config) -> None:
    allowed = list(config.agent.workspace_roots)
    if config.storage.provider is Provider.LOCAL:
        allowed.append(config.storage.endpoint)
    real = os.path.realpath(folder)
    if not any(is_inside(real, os.path.realpath(root)) for root in allowed):
        raise PathNotAllowedError(
            f"storage folder {folder!r} is outside the workspace roots and the configured store",
            hint="name a folder inside [agent] workspace_roots, or configure this one as [storage]",
        )


def is_inside(path: AnyStr, folder: AnyStr) -> bool:
    """Says whether a path is a folder or lies below it; both are absolute and without symbolic links."""
    return os.path.commonpath((path, folder)) == folder


def _check_endpoint(requested: StorageConfig, configured: StorageConfig) -> None:
    """The agent's keys are for the agent's endpoint: another one would see its requests and its session token."""
    if configured.credentials is None or not configured.configured:
        return
    if resolve(requested).endpoint_url != resolve(configured).endpoint_url:
        raise InvalidRequestError(
            "the storage of the request is at another endpoint than the agent's, and has no credentials",
            hint="give the credentials for that endpoint in the request",
        )


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
