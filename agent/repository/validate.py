"""Rules that every manifest keeps, whoever wrote it. A manifest that breaks one is damaged or malicious."""

from __future__ import annotations

from agent.errors import DataLossError
from agent.events import ChunkKind
from agent.repository.model import CODEC, MAX_CHUNK_SIZE, SEGMENT_SIZE, Chunk, Entry, EntryType, padded

MAX_PATH_SIZE = 1 << 16
MAX_FILE_SIZE = 1 << 62


def check_chunk(chunk: Chunk) -> None:
    """Checks one row of the chunk table.

    Raises:
        DataLossError: a size is impossible or the codec is not known.
    """
    if chunk.codec != CODEC:
        raise DataLossError(f"the manifest names the codec {chunk.codec!r}, which this version does not know")
    if len(chunk.id) != 32 or not 0 < chunk.raw_size <= MAX_CHUNK_SIZE or chunk.stored_size <= 0:
        raise DataLossError("the manifest's chunk table has a wrong size or id")


def check_path(path: bytes) -> None:
    """Checks that a path stays below the place it is joined to.

    Raises:
        DataLossError: it is absolute, has empty, "." or ".." components or a NUL byte, or is too long.
    """
    if len(path) > MAX_PATH_SIZE or b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise DataLossError(f"the manifest holds the unsafe path {path!r}")


def check_entry(entry: Entry, chunks: list[Chunk]) -> None:
    """Checks one entry against itself and the chunk table.

    Raises:
        DataLossError: a field is impossible; the message names the path.
    """
    if entry.path:
        check_path(entry.path)
    elif entry.type is not EntryType.DIRECTORY:
        raise _bad(entry, "is the workspace itself and no directory")
    if entry.mode > 0o7777:
        raise _bad(entry, "has impossible permission bits")
    if entry.type is EntryType.HARD_LINK:
        check_path(entry.link_target)
    if entry.type is EntryType.SYMLINK and (not entry.link_target or b"\0" in entry.link_target):
        raise _bad(entry, "is a symbolic link without a valid target")
    if entry.chunk >= len(chunks):
        raise _bad(entry, "names a chunk that does not exist")
    if entry.type is EntryType.FILE:
        _check_file(entry, chunks)
    elif chunks[entry.chunk].kind is not ChunkKind.PACK:
        raise _bad(entry, "is in a chunk that is no pack")


def _check_file(entry: Entry, chunks: list[Chunk]) -> None:
    chunk = chunks[entry.chunk]
    if entry.size > MAX_FILE_SIZE:
        raise _bad(entry, "has an impossible size")
    if entry.sparse:
        _check_extents(entry)
    elif entry.data_size != entry.size:
        raise _bad(entry, "has content of another size than its own")
    if chunk.kind is ChunkKind.PACK:
        if entry.segments or entry.data_offset + entry.data_size > chunk.raw_size:
            raise _bad(entry, "reaches beyond its pack")
        return
    if chunk.kind is not ChunkKind.HEADER or entry.segments != -(-entry.data_size // SEGMENT_SIZE):
        raise _bad(entry, "has a wrong number of segments")
    segments = chunks[entry.chunk + 1 : entry.chunk + 1 + entry.segments]
    sizes = [segment.raw_size for segment in segments if segment.kind is ChunkKind.SEGMENT]
    if len(sizes) != entry.segments or sum(sizes) != padded(entry.data_size):
        raise _bad(entry, "has segments of wrong sizes")
    if any(size != SEGMENT_SIZE for size in sizes[:-1]):
        raise _bad(entry, "has segments of wrong sizes")


def _check_extents(entry: Entry) -> None:
    end = 0
    for extent in entry.extents:
        if extent.offset < end or extent.length <= 0:
            raise _bad(entry, "has a sparse map out of order")
        end = extent.offset + extent.length
    if end > entry.size or sum(extent.length for extent in entry.extents) != entry.data_size:
        raise _bad(entry, "has a sparse map of another size than its content")


def _bad(entry: Entry, problem: str) -> DataLossError:
    return DataLossError(f"the manifest is damaged: {entry.path!r} {problem}")
