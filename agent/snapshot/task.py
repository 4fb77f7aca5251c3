"""What crosses between a snapshot and the worker processes that build its chunks: plain data, never file content."""

from __future__ import annotations

import msgspec

from agent.errors import ErrorInfo
from agent.repository.model import Entry, ManifestWarning
from agent.snapshot.plan import PackPlan


class BuildPack(msgspec.Struct, frozen=True, tag="build_pack"):
    """Read the files of a pack and build it."""

    plan: PackPlan


class BuildSegment(msgspec.Struct, frozen=True, tag="build_segment"):
    """Read a part of a large file's stored content and build a segment; the file's descriptor comes along."""

    entry: Entry
    start: int
    size: int


class Compress(msgspec.Struct, frozen=True, tag="compress"):
    """Compress what was built last, once."""


class Store(msgspec.Struct, frozen=True, tag="store"):
    """Write what was compressed to a file or shared memory, whose descriptor comes along, from ``offset`` on."""

    offset: int


Task = BuildPack | BuildSegment | Compress | Store


class BuiltPack(msgspec.Struct, frozen=True, tag="built_pack"):
    """A pack was built.

    Attributes:
        id: the chunk's; empty if nothing is in it.
        raw_size: its bytes.
        kept: the entries in it.
        dropped: hard-link groups whose first name could not be read.
        problems: what could not be saved as asked.
        read_seconds, hash_seconds: how long each took.
        processor_seconds: how long the thread was on a processor, or in line for one.
    """

    id: bytes
    raw_size: int
    kept: tuple[Entry, ...]
    dropped: frozenset[int]
    problems: tuple[ManifestWarning, ...]
    read_seconds: float
    hash_seconds: float
    processor_seconds: float


class BuiltSegment(msgspec.Struct, frozen=True, tag="built_segment"):
    """A segment was built; ``is_short`` if the file had fewer bytes. The rest as in ``BuiltPack``."""

    id: bytes
    raw_size: int
    is_short: bool
    read_seconds: float
    hash_seconds: float
    processor_seconds: float


class Compressed(msgspec.Struct, frozen=True, tag="compressed"):
    """A chunk was compressed to so many bytes; seconds as in ``BuiltPack``."""

    size: int
    seconds: float
    processor_seconds: float


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """A compressed chunk was written; seconds as in ``BuiltPack``."""

    seconds: float
    processor_seconds: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The operating system refused to read a segment, or to write a compressed chunk."""

    errno: int
    message: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A task failed otherwise."""

    error: ErrorInfo


Answer = BuiltPack | BuiltSegment | Compressed | Stored | Failed | Refused
"""``Failed`` answers only ``BuildSegment`` and ``Store``."""
