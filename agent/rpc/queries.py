"""Questions to a repository: they wait for the store, so they run in a few threads beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agent.config.model import Config, StorageConfig
from agent.errors import ConfigError, InvalidRequestError, TooManyRequestsError
from agent.operations.checks import check_snapshot_name
from agent.operations.storage_choice import choose_storage
from agent.repository.model import Entry, ManifestWarning, SnapshotSummary, UnreadableSnapshot
from agent.repository.repository import LATEST, Repository
from agent.storage.check import CheckStep, check_steps
from agent.storage.open import open_store
from agent.storage.store import Store

THREADS = 4
"""Questions that are worked on at once."""

WAITING = 64
"""Questions at once in all; more are refused."""

RETRY_SECONDS = 10.0
"""How long a store that does not answer is tried: someone waits at the other end."""

WARNINGS = 1000
"""Warnings of a snapshot that are returned at most."""

_T = TypeVar("_T")


class Queries:
    """Answers questions about the configured repository, or one that the request names.

    Every method may raise StorageNotConfiguredError, StorageNotPermittedError, InvalidRequestError,
    TooManyRequestsError, and what ``agent.repository.repository.Repository`` raises.

    Args:
        config: the agent's configuration.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="query")
        self._waiting = 0

    def close(self) -> None:
        """Takes no more questions; those that wait for a store are left to themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def list_snapshots(
        self, requested: StorageConfig | None, before: str, limit: int
    ) -> list[SnapshotSummary | UnreadableSnapshot]:
        """Returns at most ``limit`` snapshots with smaller ids, the newest first; "" begins at the newest."""
        return await self._ask(requested, lambda store: Repository(store).list_snapshots(limit, before))

    async def get_snapshot(
        self, requested: StorageConfig | None, name: str
    ) -> tuple[SnapshotSummary, list[ManifestWarning]]:
        """Returns one snapshot and its first warnings."""
        check_snapshot_name(name)

        def work(store: Store) -> tuple[SnapshotSummary, list[ManifestWarning]]:
            repository = Repository(store)
            snapshot_id = repository.resolve(name)
            return repository.summary(snapshot_id), repository.warnings(snapshot_id, WARNINGS)

        return await self._ask(requested, work)

    async def list_entries(
        self, requested: StorageConfig | None, name: str, path: bytes, after: bytes | None, limit: int
    ) -> tuple[str, list[Entry]]:
        """Returns a snapshot's id and its next ``limit`` entries at and below ``path``; ``None``: the first ones."""
        check_snapshot_name(name)

        def work(store: Store) -> tuple[str, list[Entry]]:
            repository = Repository(store)
            snapshot_id = repository.resolve(name)
            return snapshot_id, repository.list_entries(snapshot_id, path, after, limit)

        return await self._ask(requested, work)

    async def delete_snapshot(self, requested: StorageConfig | None, name: str) -> str:
        """Deletes a snapshot and returns its id; "latest" is refused, as what it names may change meanwhile."""
        check_snapshot_name(name)
        if name == LATEST:
            raise InvalidRequestError(
                "latest cannot be deleted: what it names may change meanwhile", hint="name the snapshot by its id"
            )

        def work(store: Store) -> str:
            repository = Repository(store)
            snapshot_id = repository.resolve(name)
            repository.delete_snapshot(snapshot_id)
            return snapshot_id

        return await self._ask(requested, work)

    async def check_storage(self, requested: StorageConfig | None) -> list[CheckStep]:
        """Tries the store step by step."""
        return await self._ask(requested, check_steps)

    async def _ask(self, requested: StorageConfig | None, work: Callable[[Store], _T]) -> _T:
        if self._waiting >= WAITING:
            raise TooManyRequestsError(f"{WAITING} requests wait for the store already")
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, _work_on, requested, self._config, work)
        future.add_done_callback(self._answered)
        try:
            return await asyncio.shield(future)
        except ConfigError as error:
            if requested is None:
                raise
            raise InvalidRequestError(f"storage: {error.message}", hint=error.hint) from error

    def _answered(self, future: asyncio.Future[_T]) -> None:
        self._waiting -= 1
        # The caller may have gone; an error that nobody fetched would be reported as a defect.
        if not future.cancelled():
            future.exception()


def _work_on(requested: StorageConfig | None, config: Config, work: Callable[[Store], _T]) -> _T:
    storage = choose_storage(requested, config)
    with contextlib.closing(open_store(storage, RETRY_SECONDS)) as store:
        return work(store)
