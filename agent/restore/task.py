"""What crosses between a restore and the worker processes that write its chunks: plain data, never file content."""

from __future__ import annotations

import msgspec

from agent.errors import ErrorInfo
from agent.events import WarningRaised
from agent.repository.model import Chunk
from agent.restore.plan import PackJob, SegmentPlace
from agent.restore.present import Comparing
from agent.restore.request import IfNotEmpty
from agent.storage.loan import Arrival, Loan


class Setup(msgspec.Struct, frozen=True):
    """The first message to a worker process; the descriptors of the target and of its work folder come with it.

    Attributes:
        number: differs from that of every other worker of the restore.
        manifest: the manifest's file.
        paths: what is chosen.
        bypasses_cache: whether large files are written past the page cache.
        comparing: how what is in the target is compared.
    """

    number: int
    manifest: str
    paths: tuple[bytes, ...]
    if_not_empty: IfNotEmpty
    bypasses_cache: bool
    comparing: Comparing


class SegmentTask(msgspec.Struct, frozen=True, tag="segment"):
    """Write a segment wherever its content occurs; the unfinished files are there."""

    chunk: Chunk
    places: tuple[SegmentPlace, ...]


class SegmentFetch(msgspec.Struct, frozen=True, tag="segment_fetch"):
    """Fetch a segment, and write it as a ``SegmentTask``; not done if it does not come as it should."""

    chunk: Chunk
    places: tuple[SegmentPlace, ...]
    loan: Loan


class PackCheck(msgspec.Struct, frozen=True, tag="pack_check"):
    """Keep the entries of a pack that are in the target, and make what has no content; not done if any is missing."""

    job: PackJob

    @property
    def chunk(self) -> Chunk:
        """The pack."""
        return self.job.chunk


class PackBuild(msgspec.Struct, frozen=True, tag="pack_build"):
    """Build a pack from files of the target, and write it; not done if that is not the pack.

    Attributes:
        sources: the files that are under other names than their own: (place in the pack's run of entries, path).
    """

    job: PackJob
    sources: tuple[tuple[int, bytes], ...]

    @property
    def chunk(self) -> Chunk:
        """The pack."""
        return self.job.chunk


class SegmentDigest(msgspec.Struct, frozen=True, tag="segment_digest"):
    """Hash what a file of the target, or an unfinished one, has where ``chunk`` belongs; not done if it has no such."""

    chunk: Chunk
    place: SegmentPlace
    is_unfinished: bool = False


class SegmentCopy(msgspec.Struct, frozen=True, tag="segment_copy"):
    """Copy a segment from a file of the target to unfinished files; not done if it is not there."""

    chunk: Chunk
    source: SegmentPlace
    places: tuple[SegmentPlace, ...]


LocalTask = PackCheck | PackBuild | SegmentDigest | SegmentCopy
"""Make use of what the target holds."""

Task = PackJob | SegmentTask | SegmentFetch | LocalTask
"""Decode one chunk, verify it and write it; or find and copy what would be in it."""


class PlacedTask(msgspec.Struct, frozen=True):
    """A task, and where its chunk's stored bytes are in the file whose descriptor comes along, if one does."""

    task: Task
    offset: int = 0
    size: int = 0


class Written(msgspec.Struct, frozen=True, tag="written"):
    """A task was done, or found that it cannot be.

    Attributes:
        is_done: whether it was done; only local tasks and those that fetch may say no.
        content_bytes, model_bytes, entries: what was written. A large file is counted when it is published, not here.
        decode_seconds, write_seconds: how long each took.
        processor_seconds: how long the thread was on a processor, or in line for one.
        warnings: what could not be restored as asked.
        not_made: paths that were left out.
        kept_files, kept_bytes: files that were in the target before, with their stored content.
        directories: those of the pack that have their metadata, by their places in its run of entries.
        digest: the id that a segment would have.
        arrival: how a segment came that was fetched.
    """

    is_done: bool = True
    content_bytes: int = 0
    model_bytes: int = 0
    entries: int = 0
    decode_seconds: float = 0.0
    write_seconds: float = 0.0
    processor_seconds: float = 0.0
    warnings: tuple[WarningRaised, ...] = ()
    not_made: tuple[bytes, ...] = ()
    kept_files: int = 0
    kept_bytes: int = 0
    directories: tuple[int, ...] = ()
    digest: bytes = b""
    arrival: Arrival | None = None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A task failed; DATA_LOSS means that the chunk's bytes are damaged."""

    error: ErrorInfo


Answer = Written | Refused
