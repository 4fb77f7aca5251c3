"""Where finished chunks go: hash, look whether the repository has it, compress, upload."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

import msgspec
from blake3 import blake3

from agent.events import Cause, ChunkFinished, ChunkKind, Emit, Stage
from agent.pipeline.crew import Allowance, Crew, Stopwatch
from agent.pipeline.meter import Meter
from agent.pipeline.occupation import Occupations
from agent.repository import keys
from agent.repository.frame import Encoder, max_stored_size
from agent.repository.model import Chunk
from agent.snapshot.found import FoundChunks
from agent.snapshot.task import Stored
from agent.storage.engine import Outgoing, TransferEngine, TransferReport

UPLOADS_AT_ONCE = 256
"""Uploads under way at most; the engine's staging budget usually bounds them sooner."""


class ChunkRef(msgspec.Struct, frozen=True):
    """A chunk that was handed to the sink; its stored size is known when the sink is done."""

    id: bytes
    raw_size: int
    kind: ChunkKind


class ChunkSink:
    """Stores chunks, each content once. All methods may be called from any thread.

    Args:
        known: tells the stored size of a chunk that committed snapshots of the repository have, and else ``None``.
        found: chunks that interrupted snapshots have stored; ``None`` if there are none.
    """

    def __init__(
        self,
        engine: TransferEngine,
        known: Callable[[bytes], int | None],
        crew: Crew,
        meter: Meter,
        occupations: Occupations,
        emit: Emit,
        found: FoundChunks | None = None,
    ) -> None:
        self._engine = engine
        self._crew = crew
        self._meter = meter
        self._occupations = occupations
        self._emit = emit
        self._found = found
        self._lock = threading.Lock()
        self._committed = known
        self._stored_sizes: dict[bytes, int] = {}
        self._uploads = Allowance(crew, UPLOADS_AT_ONCE)
        self.transferred_chunks = 0
        self.transferred_bytes = 0

    def put(self, chunk: ChunkRef, hash_seconds: float, store: Callable[[Outgoing], Stored]) -> ChunkRef:
        """Takes one chunk; returns when ``store``, which compresses it, is not needed any more. The upload goes on.

        Raises:
            GpusnapError: there is no room to stage it, or the crew stops.
        """
        if (stored_size := self._known(chunk)) is not None:
            self._reused(chunk, stored_size, hash_seconds)
            return chunk
        self._crew.check()
        outgoing = self._room(max_stored_size(chunk.raw_size))
        try:
            with Stopwatch() as watch:
                stored = store(outgoing)
            self._occupations.worked(watch.seconds, stored.processor_seconds)
            with self._lock:
                # Another thread may have had the same content meanwhile.
                is_new = chunk.id not in self._stored_sizes
                stored_size = self._stored_sizes.setdefault(chunk.id, stored.size)
        except BaseException:
            outgoing.release()
            self._uploads.give(1)
            raise
        if not is_new:
            outgoing.release()
            self._uploads.give(1)
            self._reused(chunk, stored_size, hash_seconds + stored.seconds)
            return chunk
        self._meter.add(Stage.COMPRESS, chunk.raw_size, busy_seconds=hash_seconds + stored.seconds)
        future = self._engine.upload(outgoing, keys.chunk(chunk.id))
        future.add_done_callback(lambda done: self._finished(chunk, done))
        return chunk

    def put_small(self, raw: bytes, kind: ChunkKind) -> ChunkRef:
        """Takes a chunk that is in memory. Raises as ``put``."""
        chunk = ChunkRef(blake3(raw).digest(), len(raw), kind)

        def store(outgoing: Outgoing) -> Stored:
            stored = b"".join(Encoder().pieces(memoryview(raw)))
            outgoing.write(stored)
            return Stored(len(stored), 0.0, 0.0)

        return self.put(chunk, 0.0, store)

    def has(self, chunks: Iterable[Chunk]) -> bool:
        """Says whether chunks of an earlier snapshot can be relied on, so that what they hold need not be read."""
        return all(self._known(ChunkRef(chunk.id, chunk.raw_size, chunk.kind)) is not None for chunk in chunks)

    def reuse(self, chunks: Iterable[Chunk]) -> list[ChunkRef]:
        """Takes chunks of an earlier snapshot, which ``has`` said can be relied on."""
        for chunk in chunks:
            self._emit(ChunkFinished(chunk.id.hex(), chunk.kind, chunk.raw_size, chunk.stored_size, reused=True))
        return [ChunkRef(chunk.id, chunk.raw_size, chunk.kind) for chunk in chunks]

    def wait(self) -> None:
        """Waits until the store has confirmed every chunk.

        Raises:
            GpusnapError: an upload failed, or the crew stops.
        """
        self._uploads.wait_empty()
        self._crew.check()

    def table(self, chunks: list[ChunkRef]) -> list[Chunk]:
        """Returns the chunk table of the archive that is made of ``chunks``; call it after ``wait``."""
        return [Chunk(chunk.id, chunk.raw_size, self._stored_sizes[chunk.id], chunk.kind) for chunk in chunks]

    def _known(self, chunk: ChunkRef) -> int | None:
        with self._lock:
            size = self._stored_sizes.get(chunk.id)
        if size is not None:
            return size
        size = self._committed(chunk.id)
        if size is None and self._found is not None:
            size = self._found.size(chunk.id, chunk.raw_size)
        if size is None:
            return None
        with self._lock:
            return self._stored_sizes.setdefault(chunk.id, size)

    def _reused(self, chunk: ChunkRef, stored_size: int, busy_seconds: float) -> None:
        self._meter.add(Stage.COMPRESS, chunk.raw_size, busy_seconds=busy_seconds)
        self._emit(ChunkFinished(chunk.id.hex(), chunk.kind, chunk.raw_size, stored_size, reused=True))

    def _room(self, size: int) -> Outgoing:
        """Waits for room to compress into."""
        with Stopwatch() as watch:
            self._uploads.take(1)
            try:
                outgoing = self._engine.outgoing(size)
            except BaseException:
                self._uploads.give(1)
                raise
        self._occupations.add(Cause.STORE, watch.seconds)
        return outgoing

    def _finished(self, chunk: ChunkRef, future: Future[TransferReport]) -> None:
        error = future.exception()
        if error is not None:
            self._crew.fail(error)
        else:
            report = future.result()
            self._meter.add(Stage.UPLOAD, report.stored_bytes, busy_seconds=report.seconds)
            with self._lock:
                self.transferred_chunks += 1
                self.transferred_bytes += report.stored_bytes
            self._emit(
                ChunkFinished(
                    chunk.id.hex(),
                    chunk.kind,
                    chunk.raw_size,
                    report.stored_bytes,
                    report.seconds,
                    report.attempts,
                    report.engine,
                )
            )
        self._uploads.give(1)
