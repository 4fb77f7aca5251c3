"""Uploads of the stream engine that take no room."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from agent.storage.arena import Arena
from agent.storage.engine import TransferReport
from agent.storage.idle_connections import IdleConnections
from agent.storage.source import Source

POLL_SECONDS = 0.05
"""How often connections are looked at while room is waited for."""


class StreamSources:
    """Sends objects from where they can be read again, while its memory is used up and connections idle.

    Args:
        arena: the memory.
        connections: tells whether there are connections for it.
        upload: begins an upload.
    """

    def __init__(
        self, arena: Arena, connections: IdleConnections, upload: Callable[[Source, str], Future[TransferReport]]
    ) -> None:
        self._arena = arena
        self._connections = connections
        self.upload = upload

    def are_preferred(self, size: int) -> bool:
        """Blocks until there is room, or connections for what has none; says whether it was these."""
        return comes_first(self.would_help, self._arena.has_room, size)

    def would_help(self, size: int) -> bool:
        """Says whether connections idle that could send it."""
        return self._connections.suffice(size)


def comes_first(would_help: Callable[[int], bool], has_room: Callable[[int, float], bool], size: int) -> bool:
    """Waits until something would help an object of ``size`` bytes or there is room; says whether it was the former."""
    while not has_room(size, POLL_SECONDS):
        if would_help(size):
            return True
    return False
