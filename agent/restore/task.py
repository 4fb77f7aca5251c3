"""What crosses between a restore and the worker processes that write its chunks: plain data, never file content."""

from __future__ import annotations

import msgspec

from agent.errors import ErrorInfo
from agent.events import WarningRaised
from agent.repository.model import Chunk, Entry
from agent.restore.plan import PackJob
from agent.restore.request import IfNotEmpty


class Setup(msgspec.Struct, frozen=True):
    """The first message to a worker process; the descriptors of the target and of its work folder come with it.

    Attributes:
        number: differs from that of every other worker of the restore.
        manifest: the manifest's file.
        paths: what is chosen.
        bypasses_cache: whether large files are written past the page cache.
    """

    number: int
    manifest: str
    paths: tuple[bytes, ...]
    if_not_empty: IfNotEmpty
    bypasses_cache: bool


class SegmentPlace(msgspec.Struct, frozen=True):
    """Where a segment goes: a large file by its number and entry, and the place in its stored content."""

    number: int
    entry: Entry
    start: int
    size: int


class SegmentTask(msgspec.Struct, frozen=True, tag="segment"):
    """Write a segment wherever its content occurs; the unfinished files are there."""

    chunk: Chunk
    places: tuple[SegmentPlace, ...]


Task = PackJob | SegmentTask
"""Decode one chunk, verify it and write it."""


class PlacedTask(msgspec.Struct, frozen=True):
    """A task and where its chunk's stored bytes are in the file whose descriptor comes with the message."""

    task: Task
    offset: int
    size: int


class Written(msgspec.Struct, frozen=True, tag="written"):
    """A task was done.

    Attributes:
        content_bytes, model_bytes, entries: what was written. A large file is counted when it is published, not here.
        decode_seconds, write_seconds: how long each took.
        processor_seconds: how long the thread was on a processor, or in line for one.
        warnings: what could not be restored as asked.
        not_made: paths that were left out.
    """

    content_bytes: int = 0
    model_bytes: int = 0
    entries: int = 0
    decode_seconds: float = 0.0
    write_seconds: float = 0.0
    processor_seconds: float = 0.0
    warnings: tuple[WarningRaised, ...] = ()
    not_made: tuple[bytes, ...] = ()


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A task failed; DATA_LOSS means that the chunk's bytes are damaged."""

    error: ErrorInfo


Answer = Written | Refused
