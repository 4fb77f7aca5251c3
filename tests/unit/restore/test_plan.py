"""What a restore fetches: only what is needed, each content once, large files interleaved with packs."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import DataLossError, InvalidRequestError
from agent.events import ChunkKind, ScanTotals
from agent.repository.manifest_reader import Location, ManifestReader
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import SEGMENT_SIZE, Chunk, Entry
from agent.restore.marks import Marks
from agent.restore.plan import PackJob, RestorePlan, SegmentJob, make_plan
from agent.restore.selection import Selection
from tests.support.forging import directory, file, hard_link, summary, symlink


def chunk(number: int, kind: ChunkKind, raw_size: int = 4096) -> Chunk:
    return Chunk(number.to_bytes(32, "big"), raw_size, 1000, kind)


TABLE = [
    chunk(0, ChunkKind.PACK),
    chunk(1, ChunkKind.HEADER),
    chunk(2, ChunkKind.SEGMENT, SEGMENT_SIZE),
    chunk(3, ChunkKind.SEGMENT),
    chunk(4, ChunkKind.PACK),
    chunk(5, ChunkKind.HEADER),
    chunk(2, ChunkKind.SEGMENT, SEGMENT_SIZE),
    chunk(3, ChunkKind.SEGMENT),
    chunk(6, ChunkKind.PACK),
    chunk(7, ChunkKind.END),
]
SIZE = SEGMENT_SIZE + 4000
ENTRIES = [
    directory(b""),
    file(b"a", 0, 100, hard_link_group=1),
    file(b"large", 0, SIZE, chunk=1, segments=2, hard_link_group=2, model=True),
    directory(b"only folders", chunk=4),
    directory(b"only folders/x", chunk=4),
    file(b"same", 0, SIZE, chunk=5, segments=2),
    symlink(b"t", b"a", chunk=8),
    hard_link(b"u", b"a", 1, chunk=8),
    hard_link(b"v", b"large", 2, chunk=8),
]


def reader(entries: Sequence[Entry] = ENTRIES) -> ManifestReader:
    written = io.BytesIO()
    writer = ManifestWriter(written)
    for entry in entries:
        writer.add_entry(entry)
    writer.finish(summary(), TABLE, [])
    data = written.getvalue()
    return ManifestReader(lambda offset, size: data[offset : offset + size], data, len(data))


def made(*paths: bytes) -> RestorePlan:
    return make_plan(reader(), Selection(paths))


def numbers(jobs: Sequence[PackJob | SegmentJob]) -> list[int]:
    return [int.from_bytes(job.chunk.id, "big") for job in jobs]


def test_everything() -> None:
    plan = made()
    # A pack of directories and links alone is not fetched: the manifest says all about them.
    assert numbers(plan.packs) == [0, 6]
    assert numbers(plan.segments) == [2, 3]
    assert [(target.file.entry.path, target.start, target.size) for target in plan.segments[1].targets] == [
        (b"large", SEGMENT_SIZE, 4000),
        (b"same", SEGMENT_SIZE, 4000),
    ]
    assert (plan.packs[0].first, plan.packs[0].count) == (Location(0, 0), 2)
    assert plan.content_bytes == 100 + 2 * SIZE
    assert plan.totals.entries == 9
    assert (plan.totals.links, plan.totals.directories, plan.totals.models.bytes) == (3, 3, SIZE)
    assert plan.promoted == {}


def test_single_paths_fetch_only_what_they_need() -> None:
    plan = made(b"a")
    assert (numbers(plan.packs), plan.segments, plan.content_bytes) == ([0], [], 100)
    plan = made(b"same")
    assert (plan.packs, numbers(plan.segments)) == ([], [2, 3])
    assert made(b"only folders").packs == []


def test_a_further_name_takes_the_content_of_one_that_is_not_chosen() -> None:
    plan = made(b"u")
    assert plan.promoted == {1: b"u"}
    assert numbers(plan.packs) == [0]
    assert (plan.packs[0].count, [entry.path for entry in plan.packs[0].extra]) == (0, [b"u"])
    plan = made(b"v")
    assert plan.promoted == {2: b"v"}
    assert [target.file.entry.path for target in plan.segments[0].targets] == [b"v"]
    assert plan.content_bytes == SIZE
    assert made(b"u", b"a").promoted == {}


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(InvalidRequestError, match="does not hold b'missing'"):
        made(b"a", b"missing")


def test_entries_that_contradict_each_other() -> None:
    with pytest.raises(DataLossError):
        make_plan(reader([*ENTRIES[:2], hard_link(b"b", b"elsewhere")]), Selection())


@given(packs=st.lists(st.integers(1, 64), max_size=30), segments=st.lists(st.integers(1, 64), max_size=30))
def test_jobs_are_interleaved_and_none_is_lost(packs: list[int], segments: list[int]) -> None:
    pack_jobs = [
        PackJob(Chunk(number.to_bytes(32, "big"), 1, size, ChunkKind.PACK), Location(0, 0), 1)
        for number, size in enumerate(packs)
    ]
    segment_jobs = [
        SegmentJob(Chunk(number.to_bytes(32, "big"), 1, size, ChunkKind.SEGMENT), [])
        for number, size in enumerate(segments)
    ]
    plan = RestorePlan(pack_jobs, segment_jobs, [], ScanTotals(), 0, {}, has_hard_links=False, directories=Marks([]))
    jobs = list(plan.jobs())
    assert [job for job in jobs if isinstance(job, PackJob)] == pack_jobs
    assert [job for job in jobs if isinstance(job, SegmentJob)] == segment_jobs
    if segments:
        assert isinstance(jobs[0], SegmentJob)
    # At any moment both kinds are done by about the same share, so that they end together.
    done = {ChunkKind.PACK: 0, ChunkKind.SEGMENT: 0}
    for job in jobs[: -1 if packs and segments else 0]:
        done[job.chunk.kind] += job.chunk.stored_size
        shares = done[ChunkKind.PACK] / sum(packs), done[ChunkKind.SEGMENT] / sum(segments)
        assert abs(shares[0] - shares[1]) <= 64 / min(sum(packs), sum(segments)) + 1e-9
