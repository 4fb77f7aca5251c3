"""Manifests: what is written comes back, by stream, by path and by place, and no damage gets through."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from gpusnap.v1 import manifest_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DataLossError, RepositoryVersionError
from agent.events import ChunkKind, ClassTotals, ScanTotals
from agent.repository import manifest_layout as layout
from agent.repository import manifest_writer
from agent.repository.manifest_reader import TAIL_SIZE, Location, ManifestReader, read_local
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Chunk, Entry, EntryType, Extent, ManifestWarning, SnapshotSummary, order
from tests.support import forging
from tests.support.trees import names

PACK = Chunk(bytes(range(32)), 64 << 20, 1000, ChunkKind.PACK)


def write(
    entries: list[Entry],
    chunks: list[Chunk] | None = None,
    warnings: list[ManifestWarning] | None = None,
    summary: SnapshotSummary | None = None,
) -> bytes:
    file = io.BytesIO()
    writer = ManifestWriter(file)
    for entry in entries:
        writer.add_entry(entry)
    writer.finish(summary or forging.summary(), [PACK] if chunks is None else chunks, warnings or [])
    return file.getvalue()


ENTRY = pb.ManifestEntry(path=b"a", type=pb.MANIFEST_ENTRY_TYPE_DIRECTORY)
ROW = pb.ManifestChunk(
    id=bytes(32), raw_size=1, stored_size=9, kind=pb.MANIFEST_CHUNK_KIND_PACK, codec="lz4"
).SerializeToString()


class Reads:
    """Reads by range, and counts the bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.count = 0

    def __call__(self, offset: int, length: int) -> bytes:
        self.count += length
        return self.data[offset : offset + length]


def open_manifest(data: bytes, tail: int = TAIL_SIZE) -> ManifestReader:
    return ManifestReader(Reads(data), data[-tail:], len(data))


Everything = tuple[SnapshotSummary, list[Entry], list[Chunk], list[ManifestWarning]]


def read_all(data: bytes, tail: int = TAIL_SIZE) -> Everything:
    reader = open_manifest(data, tail)
    return reader.summary, list(reader.entries()), reader.chunks(), reader.warnings(10**9)


_TIMES = st.integers(-(2**62), 2**62)


@st.composite
def entries_at(draw: st.DrawFn, paths: list[bytes]) -> list[Entry]:
    found = []
    for path in sorted(set(paths), key=order):
        kind = draw(st.sampled_from(list(EntryType))) if path else EntryType.DIRECTORY
        size = draw(st.integers(0, 1000)) if kind is EntryType.FILE else 0
        sparse = kind is EntryType.FILE and draw(st.booleans())
        links = kind in (EntryType.SYMLINK, EntryType.HARD_LINK)
        found.append(
            Entry(
                path=path,
                type=kind,
                mode=draw(st.integers(0, 0o7777)),
                uid=draw(st.integers(0, 2**32 - 2)),
                gid=draw(st.integers(0, 2**32 - 2)),
                mtime_ns=draw(_TIMES),
                size=size + 7 if sparse else size,
                link_target=draw(names()) if links else b"",
                hard_link_group=draw(st.integers(0, 2**64 - 1)),
                xattrs=draw(st.lists(st.tuples(names(), st.binary(max_size=9)), max_size=2).map(tuple)),
                extents=(Extent(3, size),) if sparse and size else (),
                sparse=sparse,
                device_major=draw(st.integers(0, 4095)),
                device_minor=draw(st.integers(0, 2**20 - 1)),
                data_offset=draw(st.integers(0, 1000)),
                data_size=size,
                model=draw(st.booleans()),
                ctime_ns=draw(_TIMES),
                inode=draw(st.integers(0, 2**64 - 1)),
            )
        )
    return found


@st.composite
def some_entries(draw: st.DrawFn) -> list[Entry]:
    paths = draw(st.lists(st.lists(names(), max_size=3).map(b"/".join), max_size=8))
    return draw(entries_at(paths))


@settings(max_examples=100, deadline=None)
@given(entries=some_entries(), warnings=st.lists(st.builds(ManifestWarning, st.text(), st.text(), names()), max_size=3))
def test_what_is_written_comes_back(entries: list[Entry], warnings: list[ManifestWarning]) -> None:
    summary = SnapshotSummary(
        id=forging.SNAPSHOT_ID,
        parent="20251123T110512Z-4f2a9c01",
        host="host",
        workspace=b"/\xff\n",
        start_time_ns=-5,
        commit_time_ns=2**62,
        agent_version="1.2",
        totals=ScanTotals(9, 8, 7, ClassTotals(6, 5), ClassTotals(4, 3), complete=True),
        chunks=2**40,
        raw_bytes=2**60,
        stored_bytes=11,
        warnings=12,
    )
    data = write(entries, warnings=warnings, summary=summary)
    expected = (summary, entries, [PACK], warnings)
    assert read_all(data) == expected
    # A tail that holds the trailer alone makes the reader fetch the footer by range.
    assert read_all(data, tail=layout.TRAILER_SIZE) == expected


def test_every_flipped_bit_is_found() -> None:
    entries = [
        forging.directory(b""),
        forging.file(b"a", 0, 10, hard_link_group=1),
        forging.hard_link(b"b", b"a"),
        forging.symlink(b"c", b"target"),
    ]
    data = write(entries, warnings=[ManifestWarning("REASON", "message", b"path")])
    expected = read_all(data)
    for place in range(len(data)):
        for bit in (1, 16, 128):
            damaged = bytearray(data)
            damaged[place] ^= bit
            if place < len(layout.MAGIC):
                # The magic at the beginning is for people and programs like file(1): a reader by range never sees it.
                assert read_all(bytes(damaged)) == expected
                continue
            with pytest.raises((DataLossError, RepositoryVersionError)):
                read_all(bytes(damaged))


def test_every_truncation_is_found() -> None:
    data = write([forging.directory(b""), forging.file(b"a", 0, 10)])
    for size in range(len(data)):
        with pytest.raises(DataLossError):
            read_all(data[:size])


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), end=st.booleans())
def test_hostile_bytes_are_refused(data: bytes, end: bool) -> None:
    with pytest.raises((DataLossError, RepositoryVersionError)):
        read_all(data + layout.MAGIC if end else data)


def forge(sections: list[pb.SectionIndex], body: bytes = b"", version: int = 1, raw_size: int | None = None) -> bytes:
    """Returns a manifest with a correct hash over a footer that may say anything."""
    raw = pb.ManifestFooter(format_version=1, snapshot_id=forging.SNAPSHOT_ID, sections=sections).SerializeToString()
    numbers = (len(raw), len(raw) if raw_size is None else raw_size, version, 0)
    facts = b"".join(number.to_bytes(4, "little") for number in numbers)
    return layout.MAGIC + body + raw + facts + blake3(facts + raw).digest() + layout.MAGIC


def section(
    body: bytes,
    kind: pb.SectionKind.ValueType = pb.SECTION_KIND_CHUNKS,
    offset: int = 16,
    stored_size: int | None = None,
    raw_size: int | None = None,
) -> pb.SectionIndex:
    return pb.SectionIndex(
        kind=kind,
        offset=offset,
        stored_size=len(body) if stored_size is None else stored_size,
        raw_size=len(body) if raw_size is None else raw_size,
        hash=blake3(body).digest(),
        count=1,
    )


BODY = b"0123456789"
CLAIMS = {
    "raw size": section(BODY, raw_size=(64 << 20) + 1),
    "largest raw size": section(BODY, raw_size=2**32 - 1),
    "stored size": section(BODY, stored_size=2**32 - 1, raw_size=2**32 - 1),
    "more stored than raw": section(BODY, raw_size=5),
    "offset": section(BODY, offset=2**64 - 1),
    "offset at the end": section(BODY, offset=1 << 20),
    "a bomb": section(BODY, raw_size=64 << 20),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_impossible_claims_of_a_section_are_refused(claim: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    path.write_bytes(forge([CLAIMS[claim]], BODY))
    with pytest.raises(DataLossError, match="the manifest is damaged"):
        open_manifest(path.read_bytes()).chunks()
    with pytest.raises(DataLossError, match="the manifest is damaged"):
        read_local(str(path)).chunks()


@pytest.mark.parametrize("gap", [b"x", BODY])
def test_bytes_that_no_section_has_are_refused(gap: bytes) -> None:
    with pytest.raises(DataLossError, match="do not end where its footer begins"):
        open_manifest(forge([section(BODY)], BODY + gap))
    with pytest.raises(DataLossError, match="impossible place"):
        open_manifest(forge([section(BODY), section(BODY)], BODY))


@pytest.mark.parametrize("raw_size", [(256 << 20) + 1, 2**32 - 1, 0])
def test_impossible_claims_of_the_footer_are_refused(raw_size: int) -> None:
    data = forge([], raw_size=raw_size)
    tracemalloc.start()
    try:
        with pytest.raises(DataLossError, match="impossible size"):
            open_manifest(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_another_format_version_is_refused_by_name() -> None:
    with pytest.raises(RepositoryVersionError, match="format version 7"):
        open_manifest(forge([], version=7))


def test_unknown_newer_fields_and_sections_are_ignored() -> None:
    unknown = b"\xfa\x3f\x03new"  # field 1023, length-delimited
    rows = pb.EntrySection(entries=[pb.ManifestEntry(path=b"", type=pb.MANIFEST_ENTRY_TYPE_DIRECTORY)])
    inner = rows.entries[0].SerializeToString() + unknown
    entries = b"\x0a" + bytes([len(inner)]) + inner + unknown
    table = pb.ChunkSection(
        chunks=[
            pb.ManifestChunk(id=bytes(32), raw_size=1, stored_size=9, kind=pb.MANIFEST_CHUNK_KIND_PACK, codec="lz4")
        ]
    )
    chunks = table.SerializeToString() + unknown
    newer = b"a section of a kind that is not known"
    data = forge(
        [
            section(entries, pb.SECTION_KIND_ENTRIES),
            section(chunks, pb.SECTION_KIND_CHUNKS, offset=16 + len(entries)),
            section(newer, 99, offset=16 + len(entries) + len(chunks)),  # type: ignore[arg-type]
        ],
        entries + chunks + newer,
    )
    assert [entry.path for entry in open_manifest(data).entries()] == [b""]


# What comes later in a message replaces what came before: each case ends with a field of another value.
UNKNOWN = {
    "type": (ENTRY.SerializeToString() + b"\x10\x63", ROW),
    "no type": (pb.ManifestEntry(path=b"a").SerializeToString(), ROW),
    "time": (ENTRY.SerializeToString() + pb.ManifestEntry(mtime_nanos=10**9).SerializeToString(), ROW),
    "chunk kind": (ENTRY.SerializeToString(), ROW + b"\x20\x09"),
    "codec": (ENTRY.SerializeToString(), ROW + pb.ManifestChunk(codec="zstd").SerializeToString()),
}


def first_entry(entry: bytes, row: bytes) -> Entry:
    entries = b"\x0a" + bytes([len(entry)]) + entry
    chunks = b"\x0a" + bytes([len(row)]) + row
    index = [section(entries, pb.SECTION_KIND_ENTRIES), section(chunks, offset=16 + len(entries))]
    return next(open_manifest(forge(index, entries + chunks)).entries())


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_not_known_is_refused(case: str) -> None:
    assert first_entry(ENTRY.SerializeToString(), ROW).path == b"a"
    with pytest.raises(DataLossError):
        first_entry(*UNKNOWN[case])


def test_paths_out_of_order_are_refused() -> None:
    for paths in ([b"b", b"a"], [b"a", b"a"], [b"a.b", b"a/b"]):
        with pytest.raises(DataLossError, match="out of order"):
            list(open_manifest(write([forging.directory(path) for path in paths])).entries())


def test_archive_order_puts_a_directory_before_its_siblings() -> None:
    assert sorted([b"a.b", b"a/b", b"a", b"a/b/c", b"a-"], key=order) == [b"a", b"a/b", b"a/b/c", b"a-", b"a.b"]


@pytest.fixture
def small_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_writer, "ENTRIES_PER_SECTION", 3)
    monkeypatch.setattr(manifest_writer, "CHUNKS_PER_SECTION", 2)
    monkeypatch.setattr(manifest_writer, "WARNINGS_PER_SECTION", 2)


@pytest.mark.usefixtures("small_sections")
def test_many_sections() -> None:
    entries = [forging.directory(b"%04d" % number) for number in range(1000)]
    chunks = [msgspec.structs.replace(PACK, id=number.to_bytes(32, "big")) for number in range(101)]
    warnings = [ManifestWarning("R", str(number), b"p") for number in range(7)]
    data = write(entries, chunks, warnings)
    reader = open_manifest(data)
    assert reader.entry_sections == 334
    assert read_all(data)[1:] == (entries, chunks, warnings)
    assert reader.warnings(3) == warnings[:3]
    assert [entry for number in range(334) for entry in reader.section(number)] == entries


_PATHS = [b"a", b"a/b", b"a/c", b"a.b", b"b", b"b/x/y", b"b/x/z", b"c", b"dd", b"e/f"]


@pytest.mark.usefixtures("small_sections")
@pytest.mark.parametrize("count", [0, 1, 3, 4, 10])
def test_finding_is_like_a_naive_search(count: int) -> None:
    entries = [forging.directory(path) for path in sorted(_PATHS, key=order)[:count]]
    reader = open_manifest(write(entries))
    for wanted in [b"", b"0", b"a!", b"b/x", b"zz", *_PATHS]:
        later = [entry for entry in entries if order(entry.path) >= order(wanted)]
        assert list(reader.entries_from(wanted)) == later
        assert reader.find(wanted) == next((entry for entry in entries if entry.path == wanted), None)


@pytest.mark.usefixtures("small_sections")
def test_runs_of_entries_cross_sections() -> None:
    entries = [forging.directory(b"%02d" % number) for number in range(10)]
    reader = open_manifest(write(entries))
    outlines = [outline for number in range(reader.entry_sections) for outline in reader.outlines(number)]
    assert [(outline.path, outline.type) for outline in outlines] == [(entry.path, entry.type) for entry in entries]
    assert reader.entries_at(1, [0, 2]) == [entries[3], entries[5]]
    for start in range(len(entries)):
        location = Location(start // 3, start % 3)
        for count in (0, 1, 2, 5, 100):
            assert list(reader.run_of_entries(location, count)) == entries[start : start + count]


@pytest.mark.usefixtures("small_sections")
def test_one_path_is_found_without_reading_all() -> None:
    entries = [forging.directory(b"%05d" % number) for number in range(3000)]
    data = write(entries)
    reads = Reads(data)
    reader = ManifestReader(reads, data, len(data))
    assert reader.find(b"02000") == entries[2000]
    assert reads.count < 2000


def test_sections_are_bounded_by_bytes_too() -> None:
    attributes = ((b"user.a", bytes(1 << 20)),)
    entries = [forging.directory(b"%02d" % number, xattrs=attributes) for number in range(9)]
    reader = open_manifest(write(entries))
    assert reader.entry_sections == 3
    assert list(reader.entries()) == entries


def test_a_local_manifest_is_read_like_a_remote_one(tmp_path: Path) -> None:
    entries = [forging.directory(b"%05d" % number) for number in range(5000)]
    path = tmp_path / "manifest"
    path.write_bytes(write(entries))
    reader = read_local(str(path))
    assert list(reader.entries()) == entries
