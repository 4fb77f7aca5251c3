"""Our tar members, read back by Python's tarfile: any entry comes back as it was."""

from __future__ import annotations

import io
import os
import tarfile
from typing import Any

import msgspec
from hypothesis import strategies as st

from agent.repository.model import BLOCK, Entry, EntryType, Extent, order, padded
from agent.repository.tar import END_OF_ARCHIVE, member_bound, member_header
from agent.repository.validate import MAX_MAJOR, MAX_MINOR, MAX_OWNER
from tests.support.fuzz import fuzz

SECOND = 10**9
TYPES = {
    EntryType.FILE: tarfile.REGTYPE,
    EntryType.DIRECTORY: tarfile.DIRTYPE,
    EntryType.SYMLINK: tarfile.SYMTYPE,
    EntryType.HARD_LINK: tarfile.LNKTYPE,
    EntryType.FIFO: tarfile.FIFOTYPE,
    EntryType.CHARACTER_DEVICE: tarfile.CHRTYPE,
    EntryType.BLOCK_DEVICE: tarfile.BLKTYPE,
}


def around(*edges: int, high: int) -> st.SearchStrategy[int]:
    """Draws whole numbers up to ``high``, many of them around where the form of a header changes."""
    near = sorted({edge + step for edge in (*edges, 0, high) for step in (-1, 0, 1) if 0 <= edge + step <= high})
    return st.one_of(st.sampled_from(near), st.integers(0, high))


def without_nul(raw: bytes) -> bytes:
    return raw.replace(b"\0", b"0")


COMPONENTS = st.one_of(
    st.binary(min_size=1, max_size=20), st.sampled_from([b"a" * size for size in (98, 99, 100, 101, 155, 255)])
).map(lambda raw: without_nul(raw).replace(b"/", b"_"))
PATHS = st.lists(COMPONENTS.filter(lambda name: name not in (b".", b"..")), min_size=1, max_size=4).map(b"/".join)
XATTRS = st.dictionaries(
    st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from([b"a=b", b"%", b"%3D", b"=", b"\n"])).map(without_nul),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"x" * 990, b"\n" * 9, b"9" * 99])),
    max_size=3,
).map(lambda given: tuple((b"user." + name, value) for name, value in sorted(given.items())))
ENTRIES = st.builds(
    Entry,
    path=PATHS,
    type=st.sampled_from(list(EntryType)),
    mode=st.integers(0, 0o7777),
    uid=around(0o7777777, high=MAX_OWNER),
    gid=around(0o7777777, high=MAX_OWNER),
    mtime_ns=st.one_of(
        st.integers(-(2**62), 2**62),
        around(0o77777777777, high=2**40).map(lambda seconds: seconds * SECOND),
        st.sampled_from([-1, -SECOND, -SECOND - 1, 1]),
    ),
    link_target=st.one_of(PATHS, st.binary(min_size=1, max_size=300).map(without_nul)),
    xattrs=XATTRS,
    device_major=st.integers(0, MAX_MAJOR),
    device_minor=st.integers(0, MAX_MINOR),
)
CONTENTS = st.one_of(st.binary(max_size=40), st.sampled_from([b"x" * size for size in (511, 512, 513, 1024, 5000)]))


def member(entry: Entry, content: bytes) -> tuple[Entry, bytes]:
    """Returns an entry and its whole member; only files have content."""
    if entry.type is EntryType.FILE:
        entry = msgspec.structs.replace(entry, size=len(content), data_size=len(content), link_target=b"")
    elif entry.type not in (EntryType.SYMLINK, EntryType.HARD_LINK):
        entry = msgspec.structs.replace(entry, link_target=b"")
    header = member_header(entry)
    stored = content if entry.type is EntryType.FILE else b""
    whole = header + stored.ljust(padded(len(stored)), b"\0")
    assert len(header) % BLOCK == 0
    assert len(whole) <= member_bound(entry)
    return entry, whole


def is_read(found: tarfile.TarInfo, entry: Entry) -> None:
    """Compares what tarfile says of a member with its entry."""
    assert os.fsencode(found.name) == entry.path.rstrip(b"/")
    assert found.type == TYPES[entry.type]
    assert (found.mode, found.uid, found.gid, found.size) == (entry.mode, entry.uid, entry.gid, entry.data_size)
    assert os.fsencode(found.linkname) == entry.link_target
    given = found.pax_headers.get("mtime")
    assert (float(given) if given else found.mtime) == found.mtime
    if given:
        seconds, _, nanos = given.lstrip("-").partition(".")
        whole = int(seconds) * SECOND + int(nanos.ljust(9, "0"))
        assert (-whole if given.startswith("-") else whole) == entry.mtime_ns
    else:
        assert found.mtime * SECOND == entry.mtime_ns
    if entry.type in (EntryType.CHARACTER_DEVICE, EntryType.BLOCK_DEVICE):
        assert (found.devmajor, found.devminor) == (entry.device_major, entry.device_minor)
    attributes = {
        os.fsencode(key).removeprefix(b"SCHILY.xattr.").replace(b"%3D", b"=").replace(b"%25", b"%"): os.fsencode(value)
        for key, value in found.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    }
    assert attributes == dict(entry.xattrs)


@fuzz(1500, drawn=st.lists(st.tuples(ENTRIES, CONTENTS), min_size=1, max_size=3, unique_by=lambda item: item[0].path))
def test_any_entries_come_back(drawn: list[tuple[Entry, bytes]]) -> None:
    built = [member(*item) for item in sorted(drawn, key=lambda item: order(item[0].path))]
    archive = b"".join(raw for _, raw in built) + END_OF_ARCHIVE
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape", encoding="utf-8") as opened:
        found = opened.getmembers()
        assert len(found) == len(built)
        for info, (entry, raw) in zip(found, built, strict=True):
            is_read(info, entry)
            if entry.type is EntryType.FILE:
                content = opened.extractfile(info)
                assert content is not None
                assert content.read() == raw[len(member_header(entry)) :][: entry.data_size]


GAPS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=20)


@fuzz(400, entry=ENTRIES, gaps=GAPS, tail=st.integers(0, 3000), far=st.sampled_from([0, 2**33, 2**40, 2**61]))
def test_any_sparse_files_come_back(entry: Entry, gaps: list[tuple[int, int]], tail: int, far: int) -> None:
    extents: list[Extent] = []
    end = far // BLOCK * BLOCK
    for gap, length in gaps:
        start = end + (gap or 1) * BLOCK
        end = start + length * BLOCK
        extents.append(Extent(start, length * BLOCK))
    stored = sum(extent.length for extent in extents)
    entry = msgspec.structs.replace(
        entry,
        type=EntryType.FILE,
        link_target=b"",
        sparse=True,
        extents=tuple(extents),
        size=end + tail,
        data_size=stored,
    )
    header = member_header(entry)
    assert len(header) + padded(stored) <= member_bound(entry)
    archive = header + bytes(padded(stored)) + END_OF_ARCHIVE
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape", encoding="utf-8") as opened:
        (found,) = opened.getmembers()
    assert os.fsencode(found.name) == entry.path
    assert found.size == entry.size
    # tarfile keeps the last, empty extent that says how far the file reaches.
    pairs: Any = found.sparse or []
    assert [pair for pair in pairs if pair[1]] == [(extent.offset, extent.length) for extent in extents]
