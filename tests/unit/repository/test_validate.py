"""The rules of a manifest, one by one."""

from __future__ import annotations

import msgspec
import pytest

from agent.errors import DataLossError
from agent.events import ChunkKind
from agent.repository.frame import max_stored_size
from agent.repository.model import MAX_CHUNK_SIZE, SEGMENT_SIZE, Chunk, Entry, EntryType, Extent
from agent.repository.validate import MAX_PATH_SIZE, ArchiveCheck, check_chunk, check_entry, check_path, check_run
from tests.support.forging import directory, file, hard_link, symlink

PACK = Chunk(bytes(32), 1000, 1000, ChunkKind.PACK)
HEADER = Chunk(bytes(32), 512, 100, ChunkKind.HEADER)
SEGMENT = Chunk(bytes(32), SEGMENT_SIZE, 100, ChunkKind.SEGMENT)
LAST = Chunk(bytes(32), 1024, 100, ChunkKind.SEGMENT)
TABLE = [PACK, HEADER, SEGMENT, LAST, HEADER, LAST, HEADER]
LARGE = file(b"large", 0, SEGMENT_SIZE + 1000, chunk=1, segments=2)


def changed(entry: Entry, **fields: object) -> Entry:
    return msgspec.structs.replace(entry, **fields)


GOOD = [
    directory(b""),
    directory(b"a/...b"),
    file(b"x", 0, 1000),
    file(b"x", 1000, 0),
    LARGE,
    file(b"one segment", 0, 513, chunk=4, segments=1),
    file(b"nothing stored", 0, 0, chunk=6, segments=0, sparse=True, size=5),
    file(b"holes", 0, 9, sparse=True, size=20, extents=(Extent(0, 4), Extent(15, 5))),
    symlink(b"s", b"/anywhere/../at/all"),
    hard_link(b"h", b"a/b"),
    directory(b"d", mode=0o7777, uid=2**32 - 2, gid=2**32 - 2),
    changed(directory(b"disk"), type=EntryType.BLOCK_DEVICE, device_major=4095, device_minor=2**20 - 1),
]


@pytest.mark.parametrize("entry", GOOD, ids=lambda entry: repr(entry.path))
def test_what_a_snapshot_writes_is_accepted(entry: Entry) -> None:
    check_entry(entry, TABLE)


BAD = {
    "the workspace is a file": file(b""),
    "mode": directory(b"d", mode=0o10000),
    "uid": directory(b"d", uid=2**32 - 1),
    "gid": directory(b"d", gid=2**32 - 1),
    "major": changed(directory(b"d"), device_major=4096),
    "minor": changed(directory(b"d"), device_minor=2**20),
    "link to nothing": symlink(b"s", b""),
    "link with NUL": symlink(b"s", b"a\0b"),
    "link to more than a path": symlink(b"s", b"a" * (MAX_PATH_SIZE + 1)),
    "attribute without a name": directory(b"d", xattrs=((b"", b"x"),)),
    "attribute with NUL": directory(b"d", xattrs=((b"user.a", b"x"), (b"user.\0", b"x"))),
    "hard link up": hard_link(b"h", b"../x"),
    "hard link absolute": hard_link(b"h", b"/etc/passwd"),
    "hard link to nothing": hard_link(b"h", b""),
    "no such chunk": directory(b"d", chunk=7),
    "directory in a segment": directory(b"d", chunk=2),
    "directory in a header": directory(b"d", chunk=1),
    "file in a segment": file(b"f", chunk=2),
    "beyond its pack": file(b"f", 1, 1000),
    "segments in a pack": file(b"f", segments=1),
    "absurd offset": file(b"f", 2**63, 1),
    "absurd size": file(b"f", 0, 0, sparse=True, size=2**62 + 1),
    "content of another size": file(b"f", 0, 5, size=6),
    "too few segments": changed(LARGE, segments=1),
    "too many segments": changed(LARGE, segments=3),
    "segments of another file": file(b"f", 0, SEGMENT_SIZE + 1000, chunk=4, segments=2),
    "last segment too small": changed(LARGE, size=SEGMENT_SIZE + 1025, data_size=SEGMENT_SIZE + 1025),
    "last segment too large": changed(LARGE, size=SEGMENT_SIZE + 1, data_size=SEGMENT_SIZE + 1),
    "first segment not full": file(b"f", 0, SEGMENT_SIZE + 1000, chunk=0, segments=2),
    "extents overlap": file(b"f", 0, 8, sparse=True, size=20, extents=(Extent(0, 4), Extent(3, 4))),
    "extents descend": file(b"f", 0, 8, sparse=True, size=20, extents=(Extent(8, 4), Extent(0, 4))),
    "empty extent": file(b"f", 0, 0, sparse=True, size=20, extents=(Extent(8, 0),)),
    "extents beyond the end": file(b"f", 0, 8, sparse=True, size=20, extents=(Extent(13, 8),)),
    "extents of another size": file(b"f", 0, 9, sparse=True, size=20, extents=(Extent(0, 8),)),
}


@pytest.mark.parametrize("case", BAD)
def test_what_breaks_a_rule_is_refused(case: str) -> None:
    with pytest.raises(DataLossError):
        check_entry(BAD[case], TABLE)


def test_segments_before_the_last_are_full() -> None:
    table = [HEADER, LAST, SEGMENT]
    with pytest.raises(DataLossError):
        check_entry(file(b"f", 0, SEGMENT_SIZE + 1000, chunk=0, segments=2), table)


PATHS = [
    b"..", b"../x", b"a/..", b"a/../../x", b"/abs", b"/", b"a//b", b"a/", b".", b"./a", b"a/./b", b"a\0b", b"",
    b"x" * (MAX_PATH_SIZE + 1),
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:20]))
def test_unsafe_paths_are_refused(path: bytes) -> None:
    with pytest.raises(DataLossError):
        check_path(path)
    if path:
        with pytest.raises(DataLossError):
            check_entry(file(path), TABLE)


@pytest.mark.parametrize("path", [b"a", b"...", b"..a/b..", b"\xff\n", b"-", b" ", b"a/b/c"])
def test_safe_paths_are_accepted(path: bytes) -> None:
    check_path(path)


CHUNKS: dict[str, dict[str, object]] = {
    "empty": {"raw_size": 0},
    "too large": {"raw_size": MAX_CHUNK_SIZE + 1},
    "nothing stored": {"stored_size": 0},
    "more stored than possible": {"stored_size": max_stored_size(1000) + 1},
    "short id": {"id": bytes(31)},
    "codec": {"codec": "zstd"},
}


@pytest.mark.parametrize("case", CHUNKS)
def test_impossible_chunks_are_refused(case: str) -> None:
    check_chunk(PACK)
    check_chunk(msgspec.structs.replace(PACK, stored_size=max_stored_size(1000)))
    with pytest.raises(DataLossError):
        check_chunk(msgspec.structs.replace(PACK, **CHUNKS[case]))


ROOT = directory(b"")
ARCHIVES = {
    "in nothing": [ROOT, file(b"a/b")],
    "in a file": [ROOT, file(b"a"), file(b"a/b")],
    "in a link": [ROOT, symlink(b"a", b"/etc"), file(b"a/b")],
    "in a directory that was left": [ROOT, directory(b"a"), directory(b"a/b"), file(b"a.b"), file(b"a/b/c")],
    "without a workspace": [file(b"a")],
    "chunks descend": [ROOT, file(b"a", chunk=1), file(b"b", chunk=0)],
    "link to a later name": [ROOT, hard_link(b"a", b"b")],
    "link to another group": [ROOT, file(b"a", hard_link_group=2), hard_link(b"b", b"a", group=1)],
    "link to what has no group": [ROOT, file(b"a"), hard_link(b"b", b"a", group=0)],
    "link to a link": [ROOT, file(b"a", hard_link_group=1), hard_link(b"b", b"a"), hard_link(b"c", b"b")],
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_entries_that_do_not_fit_together_are_refused(case: str) -> None:
    check = ArchiveCheck()
    *before, last = ARCHIVES[case]
    for entry in before:
        check.see(entry)
    with pytest.raises(DataLossError):
        check.see(last)


def test_entries_that_fit_together_are_accepted() -> None:
    check = ArchiveCheck()
    for entry in [
        ROOT,
        directory(b"a"),
        directory(b"a/b"),
        file(b"a/b/c", hard_link_group=1),
        hard_link(b"a/d", b"a/b/c"),
        file(b"a.b", chunk=1),
        hard_link(b"b", b"a/b/c", chunk=3),
        hard_link(b"c", b"a/b/c", chunk=3),
    ]:
        check.see(entry)


def test_large_files_do_not_share_chunks() -> None:
    rows = [PACK, HEADER, SEGMENT, LAST]
    for entries in ([LARGE, changed(LARGE, path=b"more")], [LARGE, directory(b"z", chunk=0)]):
        with pytest.raises(DataLossError, match="stands before it"):
            check_run(entries, rows)
    check_run([directory(b""), LARGE], rows)
