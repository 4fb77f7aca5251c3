"""Writes one chunk that has arrived: decompress, verify, write. In the restore's process or in a worker process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from agent.pipeline.memory import anonymous
from agent.pipeline.occupation import processor_seconds
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import MAX_CHUNK_SIZE
from agent.restore.blocks import Blocks
from agent.restore.content import ContentReader
from agent.restore.decode import Decoder
from agent.restore.keep import Keeper
from agent.restore.local import LocalContent
from agent.restore.metadata import Metadata
from agent.restore.pack_builder import PackBuilder
from agent.restore.pack_writer import PackWriter
from agent.restore.plan import PackJob
from agent.restore.present import Comparing
from agent.restore.segment_writer import SegmentWriter, Take
from agent.restore.selection import Selection
from agent.restore.task import SegmentFetch, SegmentTask, Task, Written
from agent.restore.tree_writer import TreeWriter
from agent.restore.writer import Writer
from agent.storage.engine import Incoming

if TYPE_CHECKING:
    from agent.restore.segment_receiver import SegmentReceiver

SMALL_BLOCK = 1 << 20
"""Bytes of a small file that are read at once."""


class ChunkWriting(Protocol):
    """Whatever does the tasks of one thread."""

    def do(self, task: Task, incoming: Incoming | None = None) -> Written:
        """Writes a chunk that has arrived, or does a local task.

        Raises:
            DataLossError: its bytes are damaged.
            GpusnapError: it cannot be written.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


class ChunkWriter:
    """Does tasks in this process. One per thread.

    Args:
        check: called often; raises when all shall stop.
    """

    def __init__(
        self,
        manifest: ManifestReader,
        selection: Selection,
        writer: Writer,
        keeper: Keeper,
        metadata: Metadata,
        comparing: Comparing,
        warnings: Warnings,
        check: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._keeper = keeper
        # Nothing is there, and nothing of a directory is left out.
        is_whole = comparing is Comparing.NOT and selection.everything
        trees = TreeWriter(writer, metadata, check) if is_whole else None
        self._packs = PackWriter(manifest, selection, writer, keeper, trees, check)
        # One task at a time: a pack has all of the room, or the blocks of a segment pass through it.
        room = anonymous(MAX_CHUNK_SIZE)
        blocks = Blocks(room)
        reader = ContentReader(blocks, check)
        # It reads small files into a pack, block by block.
        small_reader = ContentReader(Blocks(anonymous(SMALL_BLOCK), SMALL_BLOCK), check)
        builder = PackBuilder(manifest, keeper, small_reader, room)
        self._segments = SegmentWriter(writer, check)
        self._local = LocalContent(
            manifest, selection, comparing, keeper, writer, self._packs, self._segments, builder, reader
        )
        self._warnings = warnings
        self._decoder = Decoder(room, blocks)
        self._receiver: SegmentReceiver | None = None

    def do(self, task: Task, incoming: Incoming | None = None) -> Written:
        """Writes a chunk, or does a local task."""
        return self.write(task, incoming.view if incoming is not None else memoryview(b""))

    def close(self) -> None:
        """Closes the open directories and ends its threads."""
        self._segments.close()
        if self._receiver is not None:
            self._receiver.close()
        self._writer.close()
        self._keeper.close()

    def write(self, task: Task, stored: memoryview) -> Written:
        """Writes a chunk from its stored bytes, or does a local task. Raises as ``ChunkWriting.do``."""
        on_processor = processor_seconds()
        if isinstance(task, PackJob):
            written = self._pack(task, stored)
        elif isinstance(task, SegmentTask):
            written = self._segment(task, stored)
        elif isinstance(task, SegmentFetch):
            written = self._receive(task)
        else:
            written = self._local.do(task)
        return msgspec.structs.replace(
            written,
            processor_seconds=processor_seconds() - on_processor,
            warnings=self._warnings.take(),
            not_made=self._writer.take_not_made(),
        )

    def _pack(self, job: PackJob, stored: memoryview) -> Written:
        begun = time.monotonic()
        raw = self._decoder.pack(stored, job.chunk)
        decoded = time.monotonic()
        written = self._packs.write(job, raw)
        return msgspec.structs.replace(
            written, decode_seconds=decoded - begun, write_seconds=time.monotonic() - decoded
        )

    def _segment(self, task: SegmentTask, stored: memoryview) -> Written:
        def feed(take: Take) -> None:
            self._decoder.stream(stored, task.chunk, take, at_page=self._writer.bypasses_cache)

        return self._segments.write(task.places, feed)

    def _receive(self, task: SegmentFetch) -> Written:
        if self._receiver is None:
            # Not at the top: what it takes to load is for those that fetch.
            from agent.restore.segment_receiver import SegmentReceiver

            self._receiver = SegmentReceiver(self._decoder, self._segments)
        return self._receiver.write(task)
