"""Uploads without room, while two engines share it: those of ``stream``, unless it has lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from agent.storage.auto_gate import Gate
from agent.storage.choice import STREAM
from agent.storage.engine import TransferReport
from agent.storage.source import Source
from agent.storage.stream_sources import comes_first


class AutoSources:
    """Says when the connections of ``stream`` are better than waiting for room in either engine.

    Args:
        gate: who has room.
        upload: begins an upload.
    """

    def __init__(self, gate: Gate, upload: Callable[[Source, str], Future[TransferReport]]) -> None:
        self._gate = gate
        self.upload = upload

    def are_preferred(self, size: int) -> bool:
        """Blocks until an engine has room, or ``stream`` connections for what has none; says whether it was these."""
        return comes_first(self.would_help, self._gate.has_room, size)

    def would_help(self, size: int) -> bool:
        """Says whether connections of ``stream`` idle that could send it."""
        stream = self._gate.get(STREAM)
        if stream is None or stream.is_resting or stream.engine.sources is None:
            return False
        return stream.engine.sources.would_help(size)
