"""Fetches the first chunks of a restore while its plan is still being made."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future

from agent.config.model import TransferConfig
from agent.events import ChunkKind
from agent.repository import keys
from agent.repository.model import Chunk
from agent.restore.plan import side_by_side
from agent.storage.engine import Incoming, TransferEngine

PART_OF_STAGING = 4
"""A quarter of what may be on its way: room for that is there without waiting, whichever engine gets it."""


class Ahead:
    """Chunks that a whole restore needs whatever its plan says. For one thread at a time.

    Args:
        engine: what fetches.
        transfer: how much may be on its way.
    """

    def __init__(self, engine: TransferEngine, transfer: TransferConfig) -> None:
        self._engine = engine
        self._bytes = transfer.staging_size // PART_OF_STAGING
        self._most = transfer.connections
        self._begun: dict[bytes, Future[Incoming]] = {}

    def begin(self, table: Sequence[Chunk], leaves_segments: bool = False) -> None:
        """Begins with the chunks that the plan will name first: one for each connection, if there is surely room.

        Args:
            table: all chunks.
            leaves_segments: whether only packs are wanted so early.
        """
        left = self._bytes
        wanted = (chunk for chunk in _in_order(table) if not (leaves_segments and chunk.kind is ChunkKind.SEGMENT))
        for chunk in itertools.islice(wanted, self._most):
            left -= chunk.stored_size
            if left < 0:
                return
            self._begun[chunk.id] = self._engine.download(keys.chunk(chunk.id), chunk.stored_size)

    @property
    def chunk_ids(self) -> frozenset[bytes]:
        """What was begun and not handed over yet."""
        return frozenset(self._begun)

    def __contains__(self, chunk_id: bytes) -> bool:
        return chunk_id in self._begun

    def take(self, chunk_id: bytes) -> Future[Incoming] | None:
        """Hands over a chunk; ``None`` if it was not begun, or handed over before."""
        return self._begun.pop(chunk_id, None)

    def keep(self, chunk_ids: Iterable[bytes]) -> None:
        """Gives back all others."""
        for chunk_id in self._begun.keys() - set(chunk_ids):
            self._begun.pop(chunk_id).add_done_callback(_release)

    def close(self) -> None:
        """Gives back what nobody has taken."""
        self.keep(())


def _in_order(table: Sequence[Chunk]) -> Iterator[Chunk]:
    packs = [chunk for chunk in table if chunk.kind is ChunkKind.PACK]
    segments = {chunk.id: chunk for chunk in table if chunk.kind is ChunkKind.SEGMENT}
    return side_by_side(list(segments.values()), packs, lambda chunk: chunk.stored_size)


def _release(future: Future[Incoming]) -> None:
    if future.exception() is None:
        future.result().release()
