"""Writes one chunk that has arrived: decompress, verify, write. In the restore's process or in a worker process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from agent.pipeline.local_errors import local_error
from agent.pipeline.memory import anonymous
from agent.pipeline.occupation import processor_seconds
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import MAX_CHUNK_SIZE
from agent.restore.content import ContentReader
from agent.restore.decode import Decoder
from agent.restore.keep import Keeper
from agent.restore.local import LocalContent
from agent.restore.metadata import Metadata
from agent.restore.pack_builder import PackBuilder
from agent.restore.pack_writer import PackWriter
from agent.restore.plan import PackJob, SegmentPlace
from agent.restore.present import Comparing
from agent.restore.segment_file import SegmentFile
from agent.restore.selection import Selection
from agent.restore.task import SegmentTask, Task, Written
from agent.restore.tree_writer import TreeWriter
from agent.restore.writer import Writer
from agent.storage.engine import Incoming

FILES_AT_ONCE = 128
"""Files that one segment is written into at once: a process may have only so many descriptors."""


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
        reader = ContentReader(check)
        # One room for whole packs, whether they arrive or are built.
        room = anonymous(MAX_CHUNK_SIZE)
        builder = PackBuilder(manifest, keeper, reader, room)
        self._local = LocalContent(manifest, selection, comparing, keeper, writer, self._packs, builder, reader)
        self._warnings = warnings
        self._check = check
        self._decoder = Decoder(room)

    def do(self, task: Task, incoming: Incoming | None = None) -> Written:
        """Writes a chunk, or does a local task."""
        return self.write(task, incoming.view if incoming is not None else memoryview(b""))

    def close(self) -> None:
        """Closes the open directories."""
        self._writer.close()
        self._keeper.close()

    def write(self, task: Task, stored: memoryview) -> Written:
        """Writes a chunk from its stored bytes, or does a local task. Raises as ``ChunkWriting.do``."""
        on_processor = processor_seconds()
        if isinstance(task, PackJob):
            written = self._pack(task, stored)
        elif isinstance(task, SegmentTask):
            written = self._segment(task, stored)
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
        begun = time.monotonic()
        writing = 0.0
        by_file: dict[bytes, list[SegmentPlace]] = {}
        for place in task.places:
            by_file.setdefault(place.entry.path, []).append(place)
        groups = list(by_file.values())
        for start in range(0, len(groups), FILES_AT_ONCE):
            writing += self._write_into(groups[start : start + FILES_AT_ONCE], task, stored)
        size = sum(place.size for place in task.places)
        models = sum(place.size for place in task.places if place.entry.model)
        return Written(
            content_bytes=size,
            model_bytes=models,
            decode_seconds=time.monotonic() - begun - writing,
            write_seconds=writing,
        )

    def _write_into(self, groups: list[list[SegmentPlace]], task: SegmentTask, stored: memoryview) -> float:
        """Writes a segment into some files, each with all its places; returns the seconds that writing took."""
        writing = 0.0
        files: list[SegmentFile] = []

        def take(position: int, raw: memoryview) -> None:
            nonlocal writing
            self._check()
            begun = time.monotonic()
            for place, file in places:
                part = raw[: max(place.size - position, 0)]
                try:
                    file.write(place.start + position, part)
                except OSError as error:
                    raise local_error(f"{os.fsdecode(place.entry.path)} cannot be written", error) from error
            writing += time.monotonic() - begun

        try:
            files.extend(self._writer.open_large(group[0].entry) for group in groups)
            places = [(place, file) for group, file in zip(groups, files, strict=True) for place in group]
            self._decoder.stream(stored, task.chunk, take, at_page=self._writer.bypasses_cache)
        finally:
            for file in files:
                file.close()
        return writing
