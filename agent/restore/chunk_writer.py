"""Writes one chunk that has arrived: decompress, verify, write. In the restore's process or in a worker process."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from agent.pipeline.local_errors import local_error
from agent.pipeline.occupation import processor_seconds
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import Entry, EntryType
from agent.restore.decode import Decoder
from agent.restore.plan import PackJob
from agent.restore.segment_file import SegmentFile
from agent.restore.selection import Selection
from agent.restore.task import SegmentPlace, SegmentTask, Task, Written
from agent.restore.writer import Writer
from agent.storage.engine import Incoming

_IN_PACKS = frozenset(
    {EntryType.FILE, EntryType.SYMLINK, EntryType.FIFO, EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE}
)

FILES_AT_ONCE = 128
"""Files that one segment is written into at once: a process may have only so many descriptors."""


class ChunkWriting(Protocol):
    """Whatever does the tasks of one thread."""

    def do(self, task: Task, incoming: Incoming) -> Written:
        """Writes a chunk.

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
        warnings: Warnings,
        check: Callable[[], None],
    ) -> None:
        self._manifest = manifest
        self._selection = selection
        self._writer = writer
        self._warnings = warnings
        self._check = check
        self._decoder = Decoder()

    def do(self, task: Task, incoming: Incoming) -> Written:
        """Writes a chunk."""
        return self.write(task, incoming.view)

    def close(self) -> None:
        """Closes the open directories."""
        self._writer.close()

    def write(self, task: Task, stored: memoryview) -> Written:
        """Writes a chunk from its stored bytes. Raises as ``ChunkWriting.do``."""
        on_processor = processor_seconds()
        written = self._pack(task, stored) if isinstance(task, PackJob) else self._segment(task, stored)
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
        count = size = models = 0
        for entry in itertools.chain(entries_of(self._manifest, self._selection, job), job.extra):
            self._check()
            self._writer.write_small(entry, raw[entry.data_offset : entry.data_offset + entry.data_size])
            count += 1
            size += entry.data_size
            models += entry.data_size if entry.model else 0
        return Written(size, models, count, decoded - begun, time.monotonic() - decoded)

    def _segment(self, task: SegmentTask, stored: memoryview) -> Written:
        begun = time.monotonic()
        writing = 0.0
        by_file: dict[int, list[SegmentPlace]] = {}
        for place in task.places:
            by_file.setdefault(place.number, []).append(place)
        groups = list(by_file.values())
        for start in range(0, len(groups), FILES_AT_ONCE):
            writing += self._write_into(groups[start : start + FILES_AT_ONCE], task, stored)
        size = sum(place.size for place in task.places)
        models = sum(place.size for place in task.places if place.entry.model)
        return Written(size, models, 0, time.monotonic() - begun - writing, writing)

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
            files.extend(self._writer.open_large(group[0].number, group[0].entry) for group in groups)
            places = [(place, file) for group, file in zip(groups, files, strict=True) for place in group]
            self._decoder.stream(stored, task.chunk, take, at_page=self._writer.bypasses_cache)
        finally:
            for file in files:
                file.close()
        return writing


def entries_of(manifest: ManifestReader, selection: Selection, job: PackJob) -> list[Entry]:
    """Returns the chosen entries that are written from a pack, without the job's extra ones."""
    run = manifest.run_of_entries(job.first, job.count)
    return [entry for entry in run if entry.type in _IN_PACKS and selection.covers(entry.path)]
