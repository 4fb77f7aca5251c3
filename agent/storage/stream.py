"""The transfer engine that moves chunks over http(s) between the store and reused memory, with no staging folder."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from agent.config.model import StorageConfig, TransferConfig
from agent.config.provider import ResolvedStorage
from agent.errors import GpusnapError
from agent.pipeline.workers import free_memory
from agent.storage.arena import GRAIN, LARGEST_ROOM, Arena, arena_bytes
from agent.storage.choice import STREAM
from agent.storage.engine import Incoming, Outgoing, Share, TransferReport
from agent.storage.idle_connections import IdleConnections, Load
from agent.storage.keys import check_key
from agent.storage.retry import RetryPolicy
from agent.storage.source import Source
from agent.storage.stream_download import Download
from agent.storage.stream_loans import StreamLoans
from agent.storage.stream_pool import Pool
from agent.storage.stream_requests import Requests
from agent.storage.stream_sources import StreamSources
from agent.storage.stream_upload import OutgoingBuffer, Upload

SMALLEST_PART = 4 << 20
LARGEST_PART = 16 << 20
"""Bytes of one ranged request. Smaller ones cost CPU, larger ones leave connections idle once the arena is full."""


class StreamEngine:
    """Moves chunks in this process.

    Args:
        storage: where the objects are, with the credentials.
        resolved: its endpoint, region and addressing style.
        transfer: connections, memory (``arena_bytes`` of ``staging_size``) and retries.
        share: what it may use at first, by default all of that.

    Raises:
        ConfigError: the prefix is not allowed, or AWS_CA_BUNDLE cannot be read.
    """

    name = STREAM

    def __init__(
        self, storage: StorageConfig, resolved: ResolvedStorage, transfer: TransferConfig, share: Share | None = None
    ) -> None:
        share = share or Share.whole(transfer)
        self._requests = Requests(storage, resolved)
        self._policy = RetryPolicy(transfer.retry_seconds)
        most = arena_bytes(transfer.staging_size, free_memory())
        self._arena = Arena(min(share.bytes, most), most)
        self._pool = Pool(self._requests, share.connections)
        self._part_bytes = part_bytes(share.connections, self._arena.capacity)
        self._lock = threading.Lock()
        self._on_way = 0
        self.loans = StreamLoans(self._pool, self._requests, self._policy)
        self.sources = StreamSources(self._arena, IdleConnections(self._load), self._send)

    @property
    def bytes_moved(self) -> int:
        """Bytes that its connections have moved, those that were lent among them."""
        return self._pool.bytes_moved + self.loans.bytes_moved

    @property
    def processor_seconds(self) -> float:
        """How long its threads were on a processor."""
        return self._pool.processor_seconds

    @property
    def capacity(self) -> int:
        """Bytes of memory for what is on its way."""
        return self._arena.capacity

    def outgoing(self, size: int) -> OutgoingBuffer:
        """Returns memory for an object; blocks while there is none."""
        return OutgoingBuffer(self._arena.take(size), size)

    def upload(self, outgoing: Outgoing, key: str) -> Future[TransferReport]:
        """Stores what was written with one PUT."""
        assert isinstance(outgoing, OutgoingBuffer)
        return self._send(outgoing, key)

    def download(self, key: str, size: int) -> Future[Incoming]:
        """Fetches an object, in parts if it is large."""
        check_key(key)
        # One byte more, so that an object which is too long can be told from the right one.
        room = self._arena.take(size + 1)
        download = Download(key, size, room, self._requests, self._policy, self._pool.submit)
        download.start(self._part_bytes)
        return download.future

    def widen(self, share: Share) -> None:
        """Allows more memory and connections from now on."""
        self._arena.widen(share.bytes)
        self._pool.widen(share.connections)
        self._part_bytes = part_bytes(share.connections, self._arena.capacity)

    def close(self) -> None:
        """Waits for what is running, and ends the connections and their threads."""
        self._pool.close()
        self._arena.abort()

    def abort(self) -> None:
        """Cuts all connections and fails what waits. Not to be called from a future's callback."""
        self._arena.abort()
        self._pool.abort()

    def _send(self, source: Source, key: str) -> Future[TransferReport]:
        size = source.size
        upload = Upload(key, source, self._requests, self._policy)
        self._count(size)
        upload.future.add_done_callback(lambda _: self._count(-size))
        try:
            check_key(key)
        except GpusnapError as error:
            upload.finish(error)
        else:
            self._pool.submit([upload])
        return upload.future

    def _count(self, size: int) -> None:
        with self._lock:
            self._on_way += size

    def _load(self) -> Load:
        uploads, idle = self._pool.occupancy
        return Load(uploads, idle, self._on_way, self._pool.bytes_moved)


def part_bytes(connections: int, capacity: int) -> int:
    """Returns how large the parts of an object are: those of all that have room keep all connections busy."""
    objects = max(capacity // LARGEST_ROOM, 1)
    fair = objects * LARGEST_ROOM // connections // GRAIN * GRAIN
    return min(max(fair, SMALLEST_PART), LARGEST_PART)
