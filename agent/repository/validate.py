"""Rules that every manifest keeps, whoever wrote it. A manifest that breaks one is damaged or malicious."""

from __future__ import annotations

from agent.errors import DataLossError
from agent.events import ChunkKind
from agent.repository.frame import max_stored_size
from agent.repository.model import CODEC, MAX_CHUNK_SIZE, SEGMENT_SIZE, Chunk, Entry, EntryType, Outline, order, padded

MAX_PATH_SIZE = 1 << 16
MAX_FILE_SIZE = 1 << 62
MAX_OWNER = (1 << 32) - 2
"""The id above it means "leave it as it is" to the kernel."""
MAX_MAJOR, MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1


def check_chunk(chunk: Chunk) -> None:
    """Checks one row of the chunk table.

    Raises:
        DataLossError: a size is impossible or the codec is not known.
    """
    if chunk.codec != CODEC:
        raise DataLossError(f"the manifest names the codec {chunk.codec!r}, which this version does not know")
    is_raw_size_possible = 0 < chunk.raw_size <= MAX_CHUNK_SIZE
    if len(chunk.id) != 32 or not is_raw_size_possible or not 0 < chunk.stored_size <= max_stored_size(chunk.raw_size):
        raise DataLossError("the manifest's chunk table has a wrong size or id")


def check_texts(*texts: str | bytes) -> None:
    """Checks that texts are short enough to be shown and sent.

    Raises:
        DataLossError: one is longer than any path.
    """
    if any(len(text) > MAX_PATH_SIZE for text in texts):
        raise DataLossError(f"the manifest is damaged: it holds a text of more than {MAX_PATH_SIZE} characters")


def check_path(path: bytes) -> None:
    """Checks that a path stays below the place it is joined to.

    Raises:
        DataLossError: it is absolute, has empty, "." or ".." components or a NUL byte, or is too long.
    """
    # Asked of every path of a snapshot: few have a component that begins with a dot.
    is_unsafe = not path or len(path) > MAX_PATH_SIZE or b"\0" in path or b"//" in path
    is_unsafe = is_unsafe or path.startswith(b"/") or path.endswith(b"/")
    if not is_unsafe and (b"/." in path or path.startswith(b".")):
        is_unsafe = any(part in (b".", b"..") for part in path.split(b"/"))
    if is_unsafe:
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
    if entry.uid > MAX_OWNER or entry.gid > MAX_OWNER:
        raise _bad(entry, "has an impossible owner")
    if entry.device_major > MAX_MAJOR or entry.device_minor > MAX_MINOR:
        raise _bad(entry, "has an impossible device number")
    if entry.type is EntryType.HARD_LINK:
        check_path(entry.link_target)
    if entry.type is EntryType.SYMLINK and not _is_link_target(entry.link_target):
        raise _bad(entry, "is a symbolic link without a valid target")
    if entry.xattrs and any(not name or b"\0" in name for name, _ in entry.xattrs):
        raise _bad(entry, "has an extended attribute without a valid name")
    if entry.chunk >= len(chunks):
        raise _bad(entry, "names a chunk that does not exist")
    if entry.type is EntryType.FILE:
        _check_file(entry, chunks)
    elif chunks[entry.chunk].kind is not ChunkKind.PACK:
        raise _bad(entry, "is in a chunk that is no pack")


def check_run(entries: list[Entry], chunks: list[Chunk]) -> None:
    """Checks some entries that follow one another, each against itself and the chunk table.

    Raises:
        DataLossError: a field is impossible, or chunks are shared that cannot be; the message names the path.
    """
    next_chunk = 0
    for entry in entries:
        next_chunk = _check_place(entry, next_chunk)
        check_entry(entry, chunks)


def check_order(entry: Entry | Outline, place: bytes | None) -> bytes:
    """Checks that an entry stands behind a place in archive order, if there is one; returns its own, for the next one.

    Raises:
        DataLossError: it does not.
    """
    own = order(entry.path)
    if place is not None and own <= place:
        raise _bad(entry, "is out of order")
    return own


class ArchiveCheck:
    """Checks the entries of a whole manifest against each other, one after another in archive order."""

    def __init__(self) -> None:
        self._last: bytes | None = None
        self._folders: list[bytes] = []
        self._groups: dict[int, bytes] = {}
        self._next_chunk = 0

    def see(self, entry: Entry | Outline) -> None:
        """Takes the next entry.

        Raises:
            DataLossError: it is out of order, stands in something that is no directory, is a link to what does not
                stand before it, or its chunk does.
        """
        self._last = check_order(entry, self._last)
        self._check_folder(entry)
        self._next_chunk = _check_place(entry, self._next_chunk)
        if entry.type is EntryType.HARD_LINK:
            if self._groups.get(entry.hard_link_group) != entry.link_target:
                raise _bad(entry, f"is a link to {entry.link_target!r}, which is not a file before it")
        elif entry.hard_link_group:
            self._groups[entry.hard_link_group] = entry.path

    def _check_folder(self, entry: Entry | Outline) -> None:
        if not entry.path:
            self._folders = [b""]
            return
        above = entry.path.rpartition(b"/")[0]
        while self._folders and self._folders[-1] != above:
            self._folders.pop()
        if not self._folders:
            raise _bad(entry, "is in something that is no directory")
        if entry.type is EntryType.DIRECTORY:
            self._folders.append(entry.path)


def _check_place(entry: Entry | Outline, next_chunk: int) -> int:
    """Returns the first chunk that the next entry may be in.

    A large file's chunks are its own: entries that shared thousands of them would take time and memory without bound.
    """
    if entry.chunk < next_chunk:
        raise _bad(entry, "is in a chunk that stands before it")
    return entry.chunk + 1 + entry.segments if entry.segments else entry.chunk


def _is_link_target(target: bytes) -> bool:
    return 0 < len(target) <= MAX_PATH_SIZE and b"\0" not in target


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


def _bad(entry: Entry | Outline, problem: str) -> DataLossError:
    return DataLossError(f"the manifest is damaged: {entry.path!r} {problem}")
