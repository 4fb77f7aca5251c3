"""What is known of the transfer engines, store by store: a file in the state folder."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

import msgspec

from agent import foreign
from agent.config.model import StorageConfig
from agent.config.provider import resolve
from agent.errors import DataLossError
from agent.events import Direction, Measurement

FILE_NAME = "engines.json"
"""The file in the state folder."""

STORES_KEPT = 256
"""Stores that are remembered; those that were not measured for the longest time are forgotten."""

_VERSION = 1
_log = logging.getLogger(__name__)


class _Place(msgspec.Struct, frozen=True):
    """A store: the same bucket may lie behind several endpoints, as fast as each of them is."""

    endpoint: str
    bucket: str


class _Store(msgspec.Struct, frozen=True):
    place: _Place
    measurements: tuple[Measurement, ...]


class _File(msgspec.Struct, frozen=True):
    version: int
    stores: tuple[_Store, ...]


_decoder = msgspec.json.Decoder(_File)


class MeasuredStores:
    """The latest measurement of each engine in each direction, by store. Belongs to the event loop.

    What cannot be read or written is only logged: the next large operation measures again.

    Args:
        state_dir: an existing folder that belongs to this agent alone.
    """

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE_NAME)
        self._stores: dict[_Place, dict[tuple[str, Direction], Measurement]] = {}
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Reads what a former run of the agent has kept."""
        for store in await asyncio.to_thread(_read, self._path):
            self._stores[store.place] = {(item.engine, item.direction): item for item in store.measurements}

    def of(self, storage: StorageConfig) -> tuple[Measurement, ...]:
        """Returns what is known of the engines with a store."""
        if not storage.configured:
            return ()
        return tuple(self._stores.get(_place(storage), {}).values())

    def take(self, storage: StorageConfig, measurements: Sequence[Measurement], operation: str) -> None:
        """Takes in what an operation has measured; ``save`` writes it."""
        place = _place(storage)
        known = self._stores.pop(place, {})
        for item in measurements:
            known[item.engine, item.direction] = msgspec.structs.replace(item, operation=operation)
        self._stores[place] = known
        while len(self._stores) > STORES_KEPT:
            del self._stores[next(iter(self._stores))]

    async def save(self) -> None:
        """Writes all of it at once: a file that is there is always complete."""
        async with self._writing:
            stores = tuple(_Store(place, tuple(known.values())) for place, known in self._stores.items())
            content = msgspec.json.format(msgspec.json.encode(_File(_VERSION, stores)), indent=1)
            try:
                await asyncio.to_thread(_write, self._path, content)
            except OSError as error:
                _log.warning("%s cannot be written: %s", self._path, error.strerror)


def _place(storage: StorageConfig) -> _Place:
    return _Place(resolve(storage).endpoint_url, storage.bucket)


def _read(path: str) -> tuple[_Store, ...]:
    try:
        with open(path, "rb") as file:
            kept = foreign.decode(file.read(), _decoder, path)
    except FileNotFoundError:
        return ()
    except (OSError, DataLossError) as error:
        _log.warning("engines are measured again, as what was known of them cannot be read: %s", error)
        return ()
    return kept.stores if kept.version == _VERSION else ()


def _write(path: str, content: bytes) -> None:
    unfinished = path + ".new"
    with open(unfinished, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
