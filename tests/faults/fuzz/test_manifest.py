"""Manifests that say anything, with hashes that are right: an error of ours, or what they say is kept to the letter."""

from __future__ import annotations

import io
import random

from gpusnap.v1 import manifest_pb2 as pb
from hypothesis import strategies as st

from agent.errors import DataLossError, GpusnapError, InvalidRequestError, RepositoryVersionError
from agent.events import ChunkKind
from agent.repository.manifest_reader import TAIL_SIZE, ManifestReader
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Chunk, Extent, ManifestWarning
from agent.repository.validate import MAX_PATH_SIZE
from agent.restore.plan import make_plan
from agent.restore.selection import Selection
from agent.rpc import convert
from tests.support import forging
from tests.support.fuzz import fuzz
from tests.support.manifests import Parts, finish, index_of, put_together, take_apart
from tests.support.messages import messages
from tests.support.mutate import mutated

MESSAGE_BYTES = 4 << 20
"""What a message of the service may have."""


def valid() -> bytes:
    """Returns a manifest with something of everything."""
    pack = b"x" * 4096
    raw = [(pack, ChunkKind.PACK), (b"h" * 512, ChunkKind.HEADER), (b"s" * 1024, ChunkKind.SEGMENT)]
    chunks = [forging.chunk(content, kind) for content, kind in raw]
    entries = [
        forging.directory(b"", mtime_ns=-1),
        forging.directory(b"dir", xattrs=((b"user.a", b"1"), (b"user.b", b"2"))),
        forging.file(b"dir/file", 512, 100, hard_link_group=1),
        forging.hard_link(b"dir/more", b"dir/file"),
        forging.symlink(b"dir/sym", b"../elsewhere"),
        forging.file(
            b"holes", 1024, 512, size=9000, sparse=True, extents=(Extent(0, 256), Extent(4096, 256)), data_size=512
        ),
        forging.file(b"large", 0, 1000, chunk=1, segments=1, model=True),
    ]
    file = io.BytesIO()
    writer = ManifestWriter(file)
    for entry in entries:
        writer.add_entry(entry)
    end = Chunk(bytes(32), 1024, 100, ChunkKind.END)
    writer.finish(forging.summary(), [*chunks, end], [ManifestWarning("REASON", "message", b"dir/file")])
    return file.getvalue()


VALID = valid()
PARTS = take_apart(VALID)
ENTRIES, ROWS, WARNINGS = (raw for _, raw in PARTS.sections)


def use(data: bytes) -> GpusnapError | None:
    """Does with a manifest what the daemon and a restore do; returns the error that it is refused with."""
    try:
        reader = ManifestReader(lambda offset, length: data[offset : offset + length], data[-TAIL_SIZE:], len(data))
        assert convert.snapshot(reader.summary).ByteSize() < MESSAGE_BYTES
        for entry in reader.entries():
            assert convert.entry(entry).ByteSize() < MESSAGE_BYTES
            reader.find(entry.path)
        for warning in reader.warnings(1000):
            assert convert.manifest_warning(warning).ByteSize() < MESSAGE_BYTES
        for paths in ((), (b"dir",), (b"dir/more", b"large")):
            try:
                make_plan(reader, Selection(paths))
            except InvalidRequestError:
                assert paths
    except (DataLossError, RepositoryVersionError) as error:
        assert len(error.message) < 100_000
        return error
    return None


def test_the_valid_one_is_taken() -> None:
    assert put_together(PARTS) == VALID or use(put_together(PARTS)) is None
    assert use(VALID) is None


SEEDS = st.integers(0, 2**64 - 1)
EACH = 20
"""Mutations in one case: they are much cheaper than drawing one."""


@fuzz(300, each=EACH, seed=SEEDS)
def test_changed_bytes_of_sections(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(EACH):
        sections = list(PARTS.sections)
        for number in {chance.randrange(len(sections)) for _ in range(chance.choice((1, 1, 2)))}:
            kind, raw = sections[number]
            sections[number] = (kind, mutated(raw, chance))
        use(put_together(Parts(tuple(sections), PARTS.footer)))


@fuzz(300, each=EACH, seed=SEEDS)
def test_changed_bytes_of_the_footer(seed: int) -> None:
    chance = random.Random(seed)
    body, index = index_of(PARTS)
    whole = PARTS.footer + pb.ManifestFooter(sections=index).SerializeToString()
    for _ in range(EACH):
        use(finish(body, mutated(whole, chance), []))


@fuzz(300, each=EACH, seed=SEEDS)
def test_changed_bytes_are_always_found(seed: int) -> None:
    """Hashes are left as they were: whatever is changed behind the first magic, the manifest is refused."""
    chance = random.Random(seed)
    for _ in range(EACH):
        data = VALID[:16] + mutated(VALID[16:], chance)
        assert data == VALID or use(data) is not None


PLACES = st.sampled_from([0, 1, 16, 100, len(VALID) - 1, len(VALID), 2**31, 2**32 - 1, 2**63, 2**64 - 1])
SIZES = st.one_of(st.integers(0, 2000), st.sampled_from([2**20, 64 << 20, (64 << 20) + 1, 2**31, 2**32 - 1]))


@fuzz(
    800,
    footer=messages(
        pb.ManifestFooter,
        {
            "SectionIndex.offset": PLACES,
            "SectionIndex.stored_size": SIZES,
            "SectionIndex.raw_size": SIZES,
            "SectionIndex.kind": st.integers(0, 4),
        },
    ),
    with_valid=st.booleans(),
)
def test_any_footer(footer: pb.ManifestFooter, with_valid: bool) -> None:
    body, index = index_of(PARTS)
    use(finish(body, footer.SerializeToString(), index if with_valid else []))


COUNTS = st.one_of(st.integers(0, 5), st.sampled_from([511, 512, 513, 1000, 1024, 4096, 9000, 2**26, 2**63, 2**64 - 1]))
PATHS = st.sampled_from([b"dir/file", b"dir", b"", b"large", b"zzz", b"..", b"a//b", b"/abs", b"dir/sym/x", b"x" * 300])
ENTRY_FIELDS = {
    "ManifestEntry.path": PATHS,
    "ManifestEntry.type": st.integers(0, 8),
    "ManifestEntry.mode": st.sampled_from([0o644, 0o7777, 0o10000, 2**32 - 1]),
    "ManifestEntry.chunk": st.one_of(st.integers(0, 4), st.just(2**32 - 1)),
    "ManifestEntry.segments": st.one_of(st.integers(0, 3), st.just(2**32 - 1)),
    "ManifestEntry.link_target": st.one_of(PATHS, st.binary(max_size=9)),
    "ManifestEntry.hard_link_group": st.integers(0, 2),
    **{f"ManifestEntry.{name}": COUNTS for name in ("size", "data_size", "data_offset")},
    **{f"Extent.{name}": COUNTS for name in ("offset", "length")},
}


@fuzz(1500, drawn=st.lists(messages(pb.ManifestEntry, ENTRY_FIELDS), max_size=3), place=st.integers(0, 7))
def test_any_entries(drawn: list[pb.ManifestEntry], place: int) -> None:
    entries = list(pb.EntrySection.FromString(ENTRIES).entries)
    entries[place:place] = drawn
    raw = pb.EntrySection(entries=entries).SerializeToString()
    use(put_together(Parts(((1, raw), *PARTS.sections[1:]), PARTS.footer)))


ROW_FIELDS = {
    "ManifestChunk.id": st.one_of(st.binary(min_size=32, max_size=32), st.binary(max_size=40)),
    "ManifestChunk.kind": st.integers(0, 5),
    "ManifestChunk.codec": st.sampled_from(["lz4", "", "zstd", "lz4 "]),
}


@fuzz(800, drawn=st.lists(messages(pb.ManifestChunk, ROW_FIELDS), max_size=4), kept=st.integers(0, 4))
def test_any_chunk_table(drawn: list[pb.ManifestChunk], kept: int) -> None:
    rows = [*list(pb.ChunkSection.FromString(ROWS).chunks)[:kept], *drawn]
    raw = pb.ChunkSection(chunks=rows).SerializeToString()
    use(put_together(Parts((PARTS.sections[0], (2, raw), PARTS.sections[2]), PARTS.footer)))


@fuzz(300, drawn=st.lists(messages(pb.ManifestWarning), max_size=3))
def test_any_warnings(drawn: list[pb.ManifestWarning]) -> None:
    raw = pb.WarningSection(warnings=drawn).SerializeToString()
    error = use(put_together(Parts((*PARTS.sections[:2], (3, raw)), PARTS.footer)))
    texts = (text for item in drawn for text in (item.reason, item.message, item.path))
    assert (error is not None) is any(len(text) > MAX_PATH_SIZE for text in texts)
