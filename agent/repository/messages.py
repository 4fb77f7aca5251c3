"""The manifest's messages to and from plain values. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gpusnap.v1 import manifest_pb2 as pb

from agent.errors import DataLossError
from agent.events import ChunkKind, ClassTotals, ScanTotals
from agent.repository.model import Chunk, Entry, EntryType, Extent, ManifestWarning, Outline, SnapshotSummary

_SECOND = 1_000_000_000

_TYPE_TO_PB = {
    EntryType.FILE: pb.MANIFEST_ENTRY_TYPE_FILE,
    EntryType.DIRECTORY: pb.MANIFEST_ENTRY_TYPE_DIRECTORY,
    EntryType.SYMLINK: pb.MANIFEST_ENTRY_TYPE_SYMLINK,
    EntryType.HARD_LINK: pb.MANIFEST_ENTRY_TYPE_HARD_LINK,
    EntryType.FIFO: pb.MANIFEST_ENTRY_TYPE_FIFO,
    EntryType.CHARACTER_DEVICE: pb.MANIFEST_ENTRY_TYPE_CHARACTER_DEVICE,
    EntryType.BLOCK_DEVICE: pb.MANIFEST_ENTRY_TYPE_BLOCK_DEVICE,
}
_TYPE_FROM_PB = {number: kind for kind, number in _TYPE_TO_PB.items()}
_CHUNK_KIND_TO_PB = {
    ChunkKind.PACK: pb.MANIFEST_CHUNK_KIND_PACK,
    ChunkKind.HEADER: pb.MANIFEST_CHUNK_KIND_HEADER,
    ChunkKind.SEGMENT: pb.MANIFEST_CHUNK_KIND_SEGMENT,
    ChunkKind.END: pb.MANIFEST_CHUNK_KIND_END,
}
_CHUNK_KIND_FROM_PB = {number: kind for kind, number in _CHUNK_KIND_TO_PB.items()}


def entry_to_pb(entry: Entry) -> pb.ManifestEntry:
    """Returns an entry as its message."""
    return pb.ManifestEntry(
        path=entry.path,
        type=_TYPE_TO_PB[entry.type],
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_seconds=entry.mtime_ns // _SECOND,
        mtime_nanos=entry.mtime_ns % _SECOND,
        size=entry.size,
        link_target=entry.link_target,
        hard_link_group=entry.hard_link_group,
        xattrs=[pb.ExtendedAttribute(name=name, value=value) for name, value in entry.xattrs],
        extents=[pb.Extent(offset=extent.offset, length=extent.length) for extent in entry.extents],
        sparse=entry.sparse,
        device_major=entry.device_major,
        device_minor=entry.device_minor,
        chunk=entry.chunk,
        data_offset=entry.data_offset,
        data_size=entry.data_size,
        segments=entry.segments,
        model=entry.model,
        ctime_ns=entry.ctime_ns,
        inode=entry.inode,
        device=entry.device,
    )


def times_from_pb(section: Sequence[pb.ManifestEntry]) -> list[int]:
    """Returns the modification times of entries, in nanoseconds.

    Raises:
        DataLossError: one of them is none.
    """
    nanos = [message.mtime_nanos for message in section]
    if max(nanos, default=0) >= _SECOND:
        raise DataLossError("the manifest gives an entry an impossible time")
    return [message.mtime_seconds * _SECOND + rest for message, rest in zip(section, nanos, strict=True)]


def types_from_pb(section: Sequence[pb.ManifestEntry]) -> list[EntryType]:
    """Returns the types of entries.

    Raises:
        DataLossError: one of them is not known.
    """
    try:
        return [_TYPE_FROM_PB[message.type] for message in section]
    except KeyError as error:
        raise DataLossError(f"the manifest gives an entry the unknown type {error}") from error


def type_from_pb(message: pb.ManifestEntry) -> EntryType:
    """Returns the type of an entry.

    Raises:
        DataLossError: it is not known.
    """
    kind = _TYPE_FROM_PB.get(message.type)
    if kind is None:
        raise DataLossError(f"the manifest gives {message.path!r} the unknown type {message.type}")
    return kind


def entry_from_pb(message: pb.ManifestEntry) -> Entry:
    """Returns the entry of a message; what it says is not checked here.

    Raises:
        DataLossError: its type is not known, or its time is none.
    """
    kind = type_from_pb(message)
    if message.mtime_nanos >= _SECOND:
        raise DataLossError(f"the manifest gives {message.path!r} an impossible time")
    return Entry(
        message.path,
        kind,
        message.mode,
        message.uid,
        message.gid,
        message.mtime_seconds * _SECOND + message.mtime_nanos,
        message.size,
        message.link_target,
        message.hard_link_group,
        tuple((item.name, item.value) for item in message.xattrs) if message.xattrs else (),
        tuple(Extent(item.offset, item.length) for item in message.extents) if message.sparse else (),
        message.sparse,
        message.device_major,
        message.device_minor,
        message.chunk,
        message.data_offset,
        message.data_size,
        message.segments,
        message.model,
        message.ctime_ns,
        message.inode,
        message.device,
    )


def outline_from_pb(message: pb.ManifestEntry) -> Outline:
    """Returns the outline of an entry; what it says is not checked here.

    Raises:
        DataLossError: its type is not known.
    """
    return Outline(
        message.path,
        type_from_pb(message),
        message.chunk,
        message.segments,
        message.hard_link_group,
        message.link_target,
        message.data_size,
        message.model,
    )


def chunk_to_pb(chunk: Chunk) -> pb.ManifestChunk:
    """Returns a chunk as its message."""
    return pb.ManifestChunk(
        id=chunk.id,
        raw_size=chunk.raw_size,
        stored_size=chunk.stored_size,
        kind=_CHUNK_KIND_TO_PB[chunk.kind],
        codec=chunk.codec,
    )


def chunk_from_pb(message: pb.ManifestChunk) -> Chunk:
    """Returns the chunk of a message.

    Raises:
        DataLossError: its kind is not known.
    """
    kind = _CHUNK_KIND_FROM_PB.get(message.kind)
    if kind is None:
        raise DataLossError(f"the manifest's chunk table holds the unknown kind {message.kind}")
    return Chunk(message.id, message.raw_size, message.stored_size, kind, message.codec)


def warning_to_pb(warning: ManifestWarning) -> pb.ManifestWarning:
    """Returns a warning as its message."""
    return pb.ManifestWarning(reason=warning.reason, message=warning.message, path=warning.path)


def warning_from_pb(message: pb.ManifestWarning) -> ManifestWarning:
    """Returns the warning of a message."""
    return ManifestWarning(message.reason, message.message, message.path)


def summary_to_pb(summary: SnapshotSummary, format_version: int) -> pb.ManifestFooter:
    """Returns a summary as a footer without sections."""
    totals = summary.totals
    return pb.ManifestFooter(
        format_version=format_version,
        snapshot_id=summary.id,
        parent=summary.parent,
        host=summary.host,
        workspace=summary.workspace,
        start_time_ns=summary.start_time_ns,
        commit_time_ns=summary.commit_time_ns,
        agent_version=summary.agent_version,
        entries=totals.entries,
        directories=totals.directories,
        links=totals.links,
        models=pb.ManifestClassTotals(files=totals.models.files, bytes=totals.models.bytes),
        other=pb.ManifestClassTotals(files=totals.other.files, bytes=totals.other.bytes),
        chunks=summary.chunks,
        raw_bytes=summary.raw_bytes,
        stored_bytes=summary.stored_bytes,
        warnings=summary.warnings,
        last_hard_link_group=summary.last_hard_link_group,
        clock_ahead_ns=summary.clock_ahead_ns,
    )


def summary_from_pb(footer: pb.ManifestFooter) -> SnapshotSummary:
    """Returns the summary in a footer."""
    return SnapshotSummary(
        id=footer.snapshot_id,
        parent=footer.parent,
        host=footer.host,
        workspace=footer.workspace,
        start_time_ns=footer.start_time_ns,
        commit_time_ns=footer.commit_time_ns,
        agent_version=footer.agent_version,
        totals=ScanTotals(
            entries=footer.entries,
            directories=footer.directories,
            links=footer.links,
            models=ClassTotals(footer.models.files, footer.models.bytes),
            other=ClassTotals(footer.other.files, footer.other.bytes),
            complete=True,
        ),
        chunks=footer.chunks,
        raw_bytes=footer.raw_bytes,
        stored_bytes=footer.stored_bytes,
        warnings=footer.warnings,
        last_hard_link_group=footer.last_hard_link_group,
        clock_ahead_ns=footer.clock_ahead_ns,
    )
