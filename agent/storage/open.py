"""Makes the store and the transfer engine that a configuration names."""

from __future__ import annotations

from agent.config.model import StorageConfig, TransferConfig
from agent.storage.engine import TransferEngine
from agent.storage.store import Store


def open_store(storage: StorageConfig, retry_seconds: float = 60.0) -> Store:
    """Opens a store; nothing is contacted yet.

    Raises:
        StorageNotConfiguredError: the configuration names no store.
        ConfigError: it is contradictory.
    """
    raise NotImplementedError


def open_engine(storage: StorageConfig, transfer: TransferConfig, staging_dir: str) -> TransferEngine:
    """Opens the transfer engine for a store; ``staging_dir`` exists and belongs to this engine alone.

    Raises:
        EngineUnavailableError: its program is missing or too old.
    """
    raise NotImplementedError
