"""Where finished chunks go: hash, look whether the repository has it, compress, upload."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Protocol

import msgspec
from blake3 import blake3

from agent.events import Cause, ChunkFinished, ChunkKind, Emit, Stage
from agent.pipeline.crew import POLL_SECONDS, Allowance, Crew, Stopwatch
from agent.pipeline.meter import Meter
from agent.pipeline.occupation import Occupations
from agent.repository import keys
from agent.repository.frame import encode, max_stored_size
from agent.repository.model import Chunk
from agent.snapshot.found import FoundChunks
from agent.snapshot.task import Compressed, Stored
from agent.storage.engine import Outgoing, TransferEngine, TransferReport
from agent.storage.source import Source, SourceLostError

UPLOADS_AT_ONCE = 256
"""Uploads under way at most; the engine's staging budget usually bounds them sooner."""


class ChunkRef(msgspec.Struct, frozen=True):
    """A chunk that was handed to the sink; its stored size is known when the sink is done."""

    id: bytes
    raw_size: int
    kind: ChunkKind


class Compressor(Protocol):
    """Whatever has a chunk and compresses it. Both may raise GpusnapError, and WorkerDiedError: then begin again."""

    def compress(self) -> Compressed:
        """Compresses it, once."""
        ...

    def store(self, outgoing: Outgoing) -> Stored:
        """Writes what was compressed."""
        ...


class InFile(Protocol):
    """Where a chunk can be read once more while it is sent, so that nobody need hold it."""

    def source(self, chunk: ChunkRef) -> Source | None:
        """Returns what reads it, if the system lets it; LZ4 gains nothing on it."""
        ...

    def sending_begins(self) -> None:
        """Says that the file is needed from now on."""
        ...

    def sending_ends(self, *, is_lost: bool) -> None:
        """Says that it is not needed any more; a chunk that is lost was not stored, as the file has changed."""
        ...


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
        self._changed = threading.Condition()
        self._committed = known
        self._sent_from_files: set[bytes] = set()
        self._stored_sizes: dict[bytes, int] = {}
        self._uploads = Allowance(crew, UPLOADS_AT_ONCE)
        self.transferred_chunks = 0
        self.transferred_bytes = 0

    def put(
        self, chunk: ChunkRef, hash_seconds: float, compressor: Compressor, in_file: InFile | None = None
    ) -> ChunkRef:
        """Takes one chunk; returns when ``compressor`` is not needed any more. The upload goes on.

        Args:
            chunk: the chunk.
            hash_seconds: how long it took to hash it.
            compressor: has the chunk.
            in_file: where it can be read once more.

        Raises:
            GpusnapError: there is no room to stage it, or the crew stops.
        """
        if (stored_size := self._known(chunk)) is not None:
            self._reused(chunk, stored_size, hash_seconds)
            return chunk
        with Stopwatch() as watch:
            compressed = compressor.compress()
        self._occupations.worked(watch.seconds, compressed.processor_seconds)
        while not self._upload(chunk, compressed.size, compressor, in_file):
            if (stored_size := self._known(chunk)) is not None:
                self._emit_reused(chunk, stored_size)
                break
        self._meter.add(Stage.COMPRESS, chunk.raw_size, busy_seconds=hash_seconds + compressed.seconds)
        return chunk

    def put_small(self, raw: bytes, kind: ChunkKind) -> ChunkRef:
        """Takes a chunk that is in memory. Raises as ``put``."""
        return self.put(ChunkRef(blake3(raw).digest(), len(raw), kind), 0.0, _Small(raw))

    def has(self, chunks: Iterable[Chunk]) -> bool:
        """Says whether chunks of an earlier snapshot can be relied on, so that what they hold need not be read."""
        return all(self._known(ChunkRef(chunk.id, chunk.raw_size, chunk.kind)) is not None for chunk in chunks)

    def reuse(self, chunks: Iterable[Chunk]) -> list[ChunkRef]:
        """Takes chunks of an earlier snapshot, which ``has`` said can be relied on."""
        refs = []
        for chunk in chunks:
            refs.append(ChunkRef(chunk.id, chunk.raw_size, chunk.kind))
            self._emit_reused(refs[-1], chunk.stored_size)
        return refs

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
        with self._changed:
            # Until it is stored it may still be lost, and whoever relied on it with it.
            while chunk.id in self._sent_from_files:
                self._crew.check()
                self._changed.wait(POLL_SECONDS)
            size = self._stored_sizes.get(chunk.id)
        if size is not None:
            return size
        size = self._committed(chunk.id)
        if size is None and self._found is not None:
            size = self._found.size(chunk.id, chunk.raw_size)
        if size is None:
            return None
        with self._changed:
            return self._stored_sizes.setdefault(chunk.id, size)

    def _reused(self, chunk: ChunkRef, stored_size: int, busy_seconds: float) -> None:
        self._meter.add(Stage.COMPRESS, chunk.raw_size, busy_seconds=busy_seconds)
        self._emit_reused(chunk, stored_size)

    def _emit_reused(self, chunk: ChunkRef, stored_size: int) -> None:
        self._emit(ChunkFinished(chunk.id.hex(), chunk.kind, chunk.raw_size, stored_size, reused=True))

    def _upload(self, chunk: ChunkRef, size: int, compressor: Compressor, in_file: InFile | None) -> bool:
        """Begins to upload a compressed chunk of ``size`` bytes; ``False`` if another thread has had it meanwhile."""
        self._crew.check()
        self._uploads.take(1)
        try:
            source = self._source(chunk, size, in_file)
            if in_file is not None and source is not None:
                is_new = self._send(chunk, source, in_file)
            else:
                is_new = self._store(chunk, size, compressor)
        except BaseException:
            self._uploads.give(1)
            raise
        if not is_new:
            self._uploads.give(1)
        return is_new

    def _source(self, chunk: ChunkRef, size: int, in_file: InFile | None) -> Source | None:
        """Waits for room, and returns ``None``; or until the chunk is better sent from its file, if it can be."""
        sources = self._engine.sources
        if sources is None or in_file is None or size < max_stored_size(chunk.raw_size):
            return None
        with Stopwatch() as watch:
            are_preferred = sources.are_preferred(size)
        self._occupations.add(Cause.STORE, watch.seconds)
        return in_file.source(chunk) if are_preferred else None

    def _send(self, chunk: ChunkRef, source: Source, in_file: InFile) -> bool:
        """Uploads a chunk that is read again meanwhile."""
        assert self._engine.sources is not None
        with self._changed:
            is_new = not self._is_taken(chunk)
            if is_new:
                self._sent_from_files.add(chunk.id)
        if not is_new:
            source.close()
            return False
        in_file.sending_begins()
        future = self._engine.sources.upload(source, keys.chunk(chunk.id))
        future.add_done_callback(self._crew.heeding(lambda done: self._sent(chunk, in_file, done)))
        return True

    def _sent(self, chunk: ChunkRef, in_file: InFile, future: Future[TransferReport]) -> None:
        error = future.exception()
        is_lost = isinstance(error, SourceLostError)
        with self._changed:
            self._sent_from_files.discard(chunk.id)
            if error is None:
                self._stored_sizes[chunk.id] = future.result().stored_bytes
            self._changed.notify_all()
        in_file.sending_ends(is_lost=is_lost)
        if is_lost:
            self._uploads.give(1)
        else:
            self._finished(chunk, future)

    def _store(self, chunk: ChunkRef, size: int, compressor: Compressor) -> bool:
        """Uploads a chunk that is held meanwhile."""
        with Stopwatch() as watch:
            outgoing = self._engine.outgoing(size)
        self._occupations.add(Cause.STORE, watch.seconds)
        try:
            with Stopwatch() as watch:
                stored = compressor.store(outgoing)
            self._occupations.worked(watch.seconds, stored.processor_seconds)
            with self._changed:
                is_new = not self._is_taken(chunk)
                if is_new:
                    self._stored_sizes[chunk.id] = size
        except BaseException:
            outgoing.release()
            raise
        if not is_new:
            outgoing.release()
            return False
        self._meter.add(Stage.COMPRESS, busy_seconds=stored.seconds)
        future = self._engine.upload(outgoing, keys.chunk(chunk.id))
        future.add_done_callback(self._crew.heeding(lambda done: self._finished(chunk, done)))
        return True

    def _is_taken(self, chunk: ChunkRef) -> bool:
        """Says whether another thread uploads a chunk; the lock is held."""
        return chunk.id in self._stored_sizes or chunk.id in self._sent_from_files

    def _finished(self, chunk: ChunkRef, future: Future[TransferReport]) -> None:
        error = future.exception()
        if error is not None:
            self._crew.fail(error)
        else:
            report = future.result()
            self._meter.add(Stage.UPLOAD, report.stored_bytes, busy_seconds=report.seconds)
            with self._changed:
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


class _Small:
    """A chunk that takes no time to compress."""

    def __init__(self, raw: bytes) -> None:
        self._stored = encode(raw)

    def compress(self) -> Compressed:
        return Compressed(len(self._stored), 0.0, 0.0)

    def store(self, outgoing: Outgoing) -> Stored:
        outgoing.write(self._stored)
        return Stored(0.0, 0.0)
