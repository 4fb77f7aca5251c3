"""Makes the store and the transfer engine that a configuration names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from agent.config.model import EngineChoice, Provider, StorageConfig, TransferConfig
from agent.config.provider import resolve
from agent.errors import StorageNotConfiguredError
from agent.storage.directory import DirectoryStore
from agent.storage.directory_engine import DirectoryEngine
from agent.storage.engine import TransferEngine
from agent.storage.s3 import S3Store
from agent.storage.s5cmd import S5cmdEngine
from agent.storage.store import Store
from agent.storage.stream import StreamEngine

DIRECTORY_THREADS = 16
"""Renames at once: enough to hide the latency of fsync on a shared file system."""


def open_store(storage: StorageConfig, retry_seconds: float = 60.0) -> Store:
    """Opens a store; nothing is contacted yet.

    Raises:
        StorageNotConfiguredError: the configuration names no store.
        ConfigError: it is contradictory.
    """
    _demand_configured(storage)
    if storage.provider is Provider.LOCAL:
        return _directory(storage)
    return S3Store(storage, resolve(storage), retry_seconds)


def open_engine(storage: StorageConfig, transfer: TransferConfig, staging_dir: str) -> TransferEngine:
    """Opens the transfer engine for a store; ``staging_dir`` exists and belongs to it alone, if it stages files.

    Raises:
        EngineUnavailableError: its program is missing or too old.
        StorageNotConfiguredError, ConfigError: as ``open_store``.
    """
    _demand_configured(storage)
    if storage.provider is Provider.LOCAL:
        return DirectoryEngine(_directory(storage), transfer.staging_size, min(transfer.connections, DIRECTORY_THREADS))
    if transfer.engine is EngineChoice.STREAM:
        return StreamEngine(storage, resolve(storage), transfer)
    return S5cmdEngine(storage, resolve(storage), transfer, staging_dir)


def engine_name(storage: StorageConfig, transfer: TransferConfig) -> str:
    """Returns the name of the engine that ``open_engine`` takes."""
    if storage.provider is Provider.LOCAL:
        return DirectoryEngine.name
    return StreamEngine.name if transfer.engine is EngineChoice.STREAM else S5cmdEngine.name


@contextlib.contextmanager
def running_engine(storage: StorageConfig, transfer: TransferConfig, staging_dir: str) -> Iterator[TransferEngine]:
    """Opens an engine for a block: closed in order after it, aborted if it fails. Raises as ``open_engine``."""
    engine = open_engine(storage, transfer, staging_dir)
    try:
        yield engine
    except BaseException:
        engine.abort()
        raise
    engine.close()


def engine_reason(storage: StorageConfig, transfer: TransferConfig) -> str:
    """Returns one sentence saying why ``open_engine`` takes the engine it takes."""
    if storage.provider is Provider.LOCAL:
        return "the store is a local folder"
    if transfer.engine is EngineChoice.AUTO:
        return "s5cmd is the default for S3 stores"
    return f'[transfer] engine = "{transfer.engine.value}"'


def _directory(storage: StorageConfig) -> DirectoryStore:
    return DirectoryStore(resolve(storage).endpoint_url, storage.prefix)


def _demand_configured(storage: StorageConfig) -> None:
    if not storage.configured:
        missing = "endpoint (the folder)" if storage.provider is Provider.LOCAL else "bucket"
        raise StorageNotConfiguredError(f"no storage is configured: [storage] {missing} is empty")
