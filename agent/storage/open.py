"""Makes the store and the transfer engine that a configuration names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agent.config.model import EngineChoice, Provider, StorageConfig, TransferConfig
from agent.config.provider import resolve
from agent.errors import StorageNotConfiguredError
from agent.events import Direction, Measurement
from agent.storage.choice import FOLDER, STREAM, Choice, EngineAccount, choose
from agent.storage.engine import Share, TransferEngine, WidenableEngine
from agent.storage.store import Store

if TYPE_CHECKING:
    from agent.storage.directory import DirectoryStore

# Stores and engines are imported where one is made: an operation needs one of each, and loading all takes it longer.

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
    from agent.storage.s3 import S3Store

    return S3Store(storage, resolve(storage), retry_seconds)


def open_engine(
    storage: StorageConfig,
    transfer: TransferConfig,
    staging_dir: str,
    direction: Direction = Direction.DOWNLOAD,
    measurements: Sequence[Measurement] = (),
) -> TransferEngine:
    """Opens the transfer engine for a store.

    Args:
        storage: the store.
        transfer: how to move chunks.
        staging_dir: a folder that exists and belongs to the engine alone, if it stages files.
        direction: the direction that most of the chunks will take.
        measurements: what is known of both engines with this store.

    Raises:
        EngineUnavailableError: its program is missing or too old.
        StorageNotConfiguredError, ConfigError: as ``open_store``.
    """
    _demand_configured(storage)
    if storage.provider is Provider.LOCAL:
        from agent.storage.directory_engine import DirectoryEngine

        return DirectoryEngine(_directory(storage), transfer.staging_size, min(transfer.connections, DIRECTORY_THREADS))

    def make(name: str, share: Share) -> WidenableEngine:
        if name == STREAM:
            from agent.storage.stream import StreamEngine

            return StreamEngine(storage, resolve(storage), transfer, share)
        from agent.storage.s5cmd import S5cmdEngine

        return S5cmdEngine(storage, resolve(storage), transfer, staging_dir, share)

    if transfer.engine is EngineChoice.AUTO:
        from agent.storage.auto import AutoEngine

        return AutoEngine(make, transfer, direction, choose(measurements, direction))
    return make(transfer.engine.value, Share.whole(transfer))


def foresee(
    storage: StorageConfig, transfer: TransferConfig, direction: Direction, measurements: Sequence[Measurement] = ()
) -> Choice:
    """Returns which engine ``open_engine`` takes, and why; "auto" stands for one that is yet to be found out."""
    if storage.provider is Provider.LOCAL:
        return Choice(FOLDER, "the store is a local folder")
    if transfer.engine is not EngineChoice.AUTO:
        return Choice(transfer.engine.value, f'[transfer] engine = "{transfer.engine.value}"')
    undecided = "not measured yet: the next large operation, or `gpusnap bench`, compares stream and s5cmd"
    return choose(measurements, direction) or Choice(EngineChoice.AUTO.value, undecided)


def explain_connections(storage: StorageConfig, transfer: TransferConfig) -> str:
    """Returns why there are as many connections as there are, in a phrase."""
    if storage.provider is Provider.LOCAL:
        files = min(transfer.connections, DIRECTORY_THREADS)
        return f"the store is a local folder, in which {files} files are written or read at once"
    if transfer.connections == TransferConfig().connections:
        return "the default; [transfer] connections would say otherwise"
    return f"[transfer] connections = {transfer.connections}"


def account_of(engine: TransferEngine, storage: StorageConfig, transfer: TransferConfig) -> EngineAccount:
    """Returns what an engine that ``open_engine`` has opened says about itself after its work."""
    if storage.provider is not Provider.LOCAL and transfer.engine is EngineChoice.AUTO:
        from agent.storage.auto import AutoEngine

        assert isinstance(engine, AutoEngine)
        return engine.account()
    return EngineAccount(engine.name, foresee(storage, transfer, Direction.DOWNLOAD).reason)


@contextlib.contextmanager
def running_engine(
    storage: StorageConfig,
    transfer: TransferConfig,
    staging_dir: str,
    direction: Direction,
    measurements: Sequence[Measurement] = (),
) -> Iterator[TransferEngine]:
    """Opens an engine for a block: closed in order after it, aborted if it fails. Args and errors: ``open_engine``."""
    engine = open_engine(storage, transfer, staging_dir, direction, measurements)
    try:
        yield engine
    except BaseException:
        engine.abort()
        raise
    engine.close()


def _directory(storage: StorageConfig) -> DirectoryStore:
    from agent.storage.directory import DirectoryStore

    return DirectoryStore(resolve(storage).endpoint_url, storage.prefix)


def _demand_configured(storage: StorageConfig) -> None:
    if not storage.configured:
        missing = "endpoint (the folder)" if storage.provider is Provider.LOCAL else "bucket"
        raise StorageNotConfiguredError(f"no storage is configured: [storage] {missing} is empty")
