"""What a repository holds, as plain values. Sizes are bytes, times nanoseconds since 1970-01-01 UTC."""

from __future__ import annotations

import enum

import msgspec

from agent.events import ChunkKind, ScanTotals

FORMAT_VERSION = 1
CODEC = "lz4"

BLOCK = 512
"""The unit of a tar archive, in bytes."""

MAX_CHUNK_SIZE = 64 << 20
"""No chunk has more raw bytes."""

SEGMENT_SIZE = MAX_CHUNK_SIZE
"""Content bytes of every segment of a large file but its last."""


def padded(size: int) -> int:
    """Returns ``size`` rounded up to whole tar blocks."""
    return -(-size // BLOCK) * BLOCK


class EntryType(enum.Enum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard_link"
    FIFO = "fifo"
    CHARACTER_DEVICE = "character_device"
    BLOCK_DEVICE = "block_device"


class Extent(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One run of data in a sparse file, in bytes."""

    offset: int
    length: int


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One file, directory or link.

    Attributes:
        path: relative to the workspace; empty for the workspace itself.
        mode: permission bits with set-uid, set-gid and sticky.
        size: a file's size with holes.
        link_target: of a symbolic link as it is; of a hard link the path of the group's first name.
        hard_link_group: shared by all names of one file, above 0; 0 for a file with one name.
        xattrs: (name, value) pairs by name.
        extents: the data of a sparse file.
        chunk: number of the chunk with the tar member: a pack, or the header of a large file.
        data_offset: where the content begins in the pack.
        data_size: bytes of content that are stored.
        segments: segment chunks that follow a large file's header chunk.
        model: whether the scan told it to be a model.
        ctime_ns, inode, device: as they were when it was read; ``device`` is 0 if that is not sure.
    """

    path: bytes
    type: EntryType
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    link_target: bytes = b""
    hard_link_group: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    extents: tuple[Extent, ...] = ()
    sparse: bool = False
    device_major: int = 0
    device_minor: int = 0
    chunk: int = 0
    data_offset: int = 0
    data_size: int = 0
    segments: int = 0
    model: bool = False
    ctime_ns: int = 0
    inode: int = 0
    device: int = 0


class Outline(msgspec.Struct, frozen=True, gc=False):
    """What of an ``Entry`` says how it stands to the others; fields as there."""

    path: bytes
    type: EntryType
    chunk: int
    segments: int
    hard_link_group: int
    link_target: bytes
    data_size: int
    model: bool


class Chunk(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One piece of the archive; ``id`` is the BLAKE3-256 of its raw bytes (32 bytes)."""

    id: bytes
    raw_size: int
    stored_size: int
    kind: ChunkKind
    codec: str = CODEC


class ManifestWarning(msgspec.Struct, frozen=True):
    """Something that was not saved as asked."""

    reason: str
    message: str
    path: bytes


class SnapshotSummary(msgspec.Struct, frozen=True):
    """A snapshot as its manifest's footer describes it; no ``hard_link_group`` is above ``last_hard_link_group``."""

    id: str
    parent: str
    host: str
    workspace: bytes
    start_time_ns: int
    commit_time_ns: int
    agent_version: str
    totals: ScanTotals
    chunks: int
    raw_bytes: int
    stored_bytes: int
    warnings: int
    last_hard_link_group: int = 0
    clock_ahead_ns: int = 0


class UnreadableSnapshot(msgspec.Struct, frozen=True):
    """A snapshot whose manifest is damaged, or of an unknown format version; ``problem`` says so in one line."""

    id: str
    problem: str


def order(path: bytes) -> bytes:
    """Returns the sort key of archive order: components compared one after another, as bytes."""
    return path.replace(b"/", b"\0")
