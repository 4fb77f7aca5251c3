"""Makes use of what the target holds, task by task. In the restore's process or in a worker process."""

from __future__ import annotations

import itertools
import os

import msgspec

from agent.errors import DataLossError
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import Entry, EntryType
from agent.restore.content import ContentReader, are_holes_empty, next_data, share
from agent.restore.keep import Keeper
from agent.restore.pack_builder import PackBuilder
from agent.restore.pack_writer import PackWriter
from agent.restore.plan import PackJob, SegmentPlace, entries_of
from agent.restore.present import Comparing
from agent.restore.segment_writer import SegmentWriter, Take, written_to
from agent.restore.selection import Selection
from agent.restore.task import LocalTask, PackBuild, PackCheck, SegmentCopy, SegmentDigest, Written
from agent.restore.writer import Writer

_NOT_DONE = Written(is_done=False)


class LocalContent:
    """Does local tasks. One per thread."""

    def __init__(
        self,
        manifest: ManifestReader,
        selection: Selection,
        comparing: Comparing,
        keeper: Keeper,
        writer: Writer,
        packs: PackWriter,
        segments: SegmentWriter,
        builder: PackBuilder,
        reader: ContentReader,
    ) -> None:
        self._manifest = manifest
        self._selection = selection
        self._comparing = comparing
        self._keeper = keeper
        self._writer = writer
        self._packs = packs
        self._segments = segments
        self._builder = builder
        self._reader = reader

    def do(self, task: LocalTask) -> Written:
        """Does a task.

        Raises:
            GpusnapError: what is missing cannot be written.
        """
        if isinstance(task, PackCheck):
            return self._pack(task.job)
        if isinstance(task, PackBuild):
            raw = self._builder.build(task.job, dict(task.sources))
            return self._packs.write(task.job, raw) if raw is not None else _NOT_DONE
        if isinstance(task, SegmentDigest):
            digest = self._digest(task.place, task.is_unfinished)
            return Written(is_done=bool(digest), digest=digest)
        return self._copy(task)

    def _pack(self, job: PackJob) -> Written:
        """Keeps the files of a pack if all are there, and then makes of the rest what is not."""
        is_verified = self._comparing is Comparing.CONTENT
        if is_verified and not self._builder.is_in_place(job):
            return _NOT_DONE
        files = size = written = 0
        without_content: list[Entry] = []
        for entry in itertools.chain(entries_of(self._manifest, self._selection, job), job.extra):
            if not entry.data_size:
                without_content.append(entry)
            elif self._keeper.keeps(entry, job.groups, is_verified=is_verified):
                files += 1
                size += entry.data_size
            else:
                return _NOT_DONE
        for entry in without_content:
            # What is all hole is looked at, if times do not vouch for it.
            if not self._keeper.keeps(entry, job.groups, memoryview(b"")):
                self._writer.write_small(entry, memoryview(b""))
                written += 1
            elif entry.type is EntryType.FILE:
                files += 1
        return Written(entries=written, kept_files=files, kept_bytes=size)

    def _digest(self, place: SegmentPlace, is_unfinished: bool) -> bytes:
        """Returns the id of the segment that is at a place; empty if there is none."""
        entry, start, size = place.entry, place.start, place.size
        try:
            fd = self._writer.large.reopen(entry) if is_unfinished else self._keeper.open_file(entry.path)
            try:
                if is_unfinished and next_data(fd, start, start + size) == start + size:
                    # Room that was never written: reading its zeros would only take time.
                    return b""
                # The holes are looked at along with the first segment.
                if start == 0 and not are_holes_empty(fd, entry):
                    return b""
                return self._reader.segment_id(fd, entry, start, size)
            finally:
                os.close(fd)
        except OSError:
            # What cannot be read is fetched.
            return b""

    def _copy(self, task: SegmentCopy) -> Written:
        source = task.source
        try:
            fd = self._keeper.open_file(source.entry.path)
        except OSError:
            return _NOT_DONE

        def feed(take: Take) -> None:
            self._reader.stream(fd, source.entry, source.start, source.size, task.chunk.id, take)

        try:
            places = [place for place in task.places if not self._is_shared(fd, task, place)]
            written = self._segments.write(places, feed)
            return msgspec.structs.replace(written_to(task.places), write_seconds=written.write_seconds)
        except (OSError, DataLossError):
            # The segment is fetched instead.
            return _NOT_DONE
        finally:
            os.close(fd)

    def _is_shared(self, fd: int, task: SegmentCopy, place: SegmentPlace) -> bool:
        """Copies a segment without its bytes, if that can be; says whether what is there now belongs there."""
        if task.source.entry.sparse or place.entry.sparse:
            return False
        to_fd = self._writer.large.reopen(place.entry)
        try:
            return (
                share(fd, task.source.start, to_fd, place.start, place.size)
                and self._reader.segment_id(to_fd, place.entry, place.start, place.size) == task.chunk.id
            )
        finally:
            os.close(to_fd)
