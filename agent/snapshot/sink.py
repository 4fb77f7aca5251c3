"""Where finished chunks go: hash, look whether the repository has it, compress, upload."""

from __future__ import annotations

import threading
from collections.abc import Mapping
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
        known: chunks that committed snapshots of the repository have, with their stored sizes.
    """

    def __init__(
        self,
        engine: TransferEngine,
        known: Mapping[bytes, int],
        crew: Crew,
        meter: Meter,
        occupations: Occupations,
        emit: Emit,
    ) -> None:
        self._engine = engine
        self._crew = crew
        self._meter = meter
        self._occupations = occupations
        self._emit = emit
        self._lock = threading.Lock()
        self._stored_sizes: dict[bytes, int] = dict(known)
        self._uploads = Allowance(crew, UPLOADS_AT_ONCE)
        self.transferred_chunks = 0
        self.transferred_bytes = 0

    def put(self, raw: memoryview, kind: ChunkKind, encoder: Encoder) -> ChunkRef:
        """Takes one chunk; returns when ``raw`` may be used again. The upload goes on behind it.

        Raises:
            GpusnapError: there is no room to stage it, or the crew stops.
        """
        with Stopwatch() as watch:
            chunk = ChunkRef(blake3(raw).digest(), len(raw), kind)
            with self._lock:
                stored_size = self._stored_sizes.get(chunk.id)
                if stored_size is None:
                    self._stored_sizes[chunk.id] = 0
        if stored_size is not None:
            self._meter.add(Stage.COMPRESS, len(raw), busy_seconds=watch.seconds)
            self._emit(ChunkFinished(chunk.id.hex(), kind, len(raw), stored_size, reused=True))
            return chunk
        self._crew.check()
        with self._occupations.waiting(Cause.STORE):
            self._uploads.take(1)
            outgoing = self._engine.outgoing(max_stored_size(len(raw)))
        try:
            with Stopwatch() as writing:
                stored_size = self._write(outgoing, raw, encoder)
            self._meter.add(Stage.COMPRESS, len(raw), busy_seconds=watch.seconds + writing.seconds)
        except BaseException:
            outgoing.release()
            raise
        with self._lock:
            self._stored_sizes[chunk.id] = stored_size
        future = self._engine.upload(outgoing, keys.chunk(chunk.id))
        future.add_done_callback(lambda done: self._finished(chunk, done))
        return chunk

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

    def _write(self, outgoing: Outgoing, raw: memoryview, encoder: Encoder) -> int:
        size = 0
        for piece in encoder.pieces(raw):
            self._crew.check()
            outgoing.write(piece)
            size += len(piece)
        return size

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
                    self._engine.name,
                )
            )
        self._uploads.give(1)
