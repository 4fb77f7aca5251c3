"""Builds packs anew from files of the target; one that has its pack's id is as good as fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from blake3 import blake3

from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import Entry, EntryType, padded
from agent.repository.tar import member_header
from agent.restore.content import ContentReader, are_holes_empty
from agent.restore.keep import Keeper
from agent.restore.plan import PackJob

_NOWHERE: Mapping[int, bytes] = {}


class PackBuilder:
    """Builds packs. One per thread.

    Args:
        room: for the largest pack.
    """

    def __init__(self, manifest: ManifestReader, keeper: Keeper, reader: ContentReader, room: memoryview) -> None:
        self._manifest = manifest
        self._keeper = keeper
        self._reader = reader
        self._room = room

    def is_in_place(self, job: PackJob) -> bool:
        """Says whether the files under the names of a pack's entries have its content, and nothing in their holes."""
        if job.extra:
            return False
        hasher = blake3()
        try:
            for part in self._parts(job, _NOWHERE, is_exact=True):
                hasher.update(part)
        except OSError:
            return False
        return hasher.digest() == job.chunk.id

    def build(self, job: PackJob, sources: Mapping[int, bytes]) -> memoryview | None:
        """Returns a pack's raw bytes, verified, in the room; None if the files do not make it.

        Args:
            sources: the files with the content of some entries, by their places in the pack's run; those of the others
                are under their own names.
        """
        room, size = self._room[: job.chunk.raw_size], 0
        try:
            for part in self._parts(job, sources, is_exact=False):
                if len(part) > len(room) - size:
                    return None
                room[size : size + len(part)] = part
                size += len(part)
        except OSError:
            return None
        return room if size == len(room) and blake3(room).digest() == job.chunk.id else None

    def _parts(self, job: PackJob, sources: Mapping[int, bytes], is_exact: bool) -> Iterator[bytes | memoryview]:
        """Yields the bytes of a pack one after the other, each valid until the next; fewer where a file is shorter.

        Raises:
            OSError: a file is missing, cannot be read, or has another size though ``is_exact``.
        """
        for place, entry in enumerate(self._manifest.run_of_entries(job.first, job.count)):
            yield member_header(entry)
            if entry.type is EntryType.FILE and entry.data_size:
                yield from self._content(entry, sources.get(place, entry.path), is_exact)
                yield bytes(padded(entry.data_size) - entry.data_size)

    def _content(self, entry: Entry, path: bytes, is_exact: bool) -> Iterator[memoryview]:
        fd = self._keeper.open_file(path)
        try:
            if is_exact and (os.fstat(fd).st_size != entry.size or not are_holes_empty(fd, entry)):
                raise FileNotFoundError("it is another file")
            yield from self._reader.blocks(fd, entry, 0, entry.data_size)
        finally:
            os.close(fd)
