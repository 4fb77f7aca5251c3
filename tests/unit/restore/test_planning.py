"""Packs that are on their way are handed out before the plan is made, and every job once."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.config.model import TransferConfig
from agent.errors import CancelledError
from agent.events import ChunkKind
from agent.repository import keys
from agent.repository.manifest_reader import ManifestReader
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Chunk, Outline
from agent.restore.ahead import Ahead
from agent.restore.plan import PackJob, SegmentJob, make_plan
from agent.restore.planning import Planning, in_order
from agent.restore.selection import Selection
from agent.storage.directory import DirectoryStore
from agent.storage.directory_engine import DirectoryEngine
from tests.support.forging import directory, file, summary

SECONDS = 60.0
FILES = 1500
KINDS = [ChunkKind.PACK, ChunkKind.PACK, ChunkKind.PACK, ChunkKind.HEADER, ChunkKind.SEGMENT, ChunkKind.PACK]
TABLE = [Chunk(number.to_bytes(32, "big"), 512, 500, kind) for number, kind in enumerate(KINDS)]
ENTRIES = [
    directory(b""),
    *(file(b"%d%05d" % (pack, number), 0, 1, chunk=pack) for pack in range(3) for number in range(FILES)),
    file(b"large", 0, 512, chunk=3, segments=1),
    file(b"last", 0, 1, chunk=5),
]


class Slow(ManifestReader):
    """A manifest whose last section of entries is read only once it may be."""

    may_end = threading.Event()

    def outlines(self, number: int) -> list[Outline]:
        if number == self.entry_sections - 1:
            assert self.may_end.wait(SECONDS)
        return super().outlines(number)


@pytest.fixture
def manifest() -> Slow:
    written = io.BytesIO()
    writer = ManifestWriter(written)
    for entry in ENTRIES:
        writer.add_entry(entry)
    writer.finish(summary(), TABLE, [])
    data = written.getvalue()
    made = Slow(lambda offset, size: data[offset : offset + size], data, len(data))
    assert made.entry_sections > 1
    made.may_end = threading.Event()
    return made


@pytest.fixture
def ahead(tmp_path: Path) -> Iterator[Ahead]:
    """Has begun with the segment and the first packs."""
    store = DirectoryStore(str(tmp_path), "")
    for each in TABLE:
        store.write(keys.chunk(each.id), bytes(each.stored_size))
    engine = DirectoryEngine(store, 1 << 20, threads=2)
    made = Ahead(engine, TransferConfig(connections=3))
    made.begin(TABLE)
    yield made
    made.close()
    engine.close()


def test_a_pack_is_handed_out_before_the_plan_is_made(manifest: Slow, ahead: Ahead) -> None:
    planning = Planning(manifest, Selection(), ahead, lambda: None)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(planning.make)
        try:
            jobs = planning.jobs()
            first = next(jobs)
            assert not making.done()
        finally:
            manifest.may_end.set()
        left = list(jobs)
        plan = making.result(SECONDS)
    assert isinstance(first, PackJob)
    assert (first.chunk, first.count) == (TABLE[0], FILES + 1)
    assert sorted(job.chunk.id for job in [first, *left]) == sorted(job.chunk.id for job in plan.jobs())
    assert [job.chunk for job in left if isinstance(job, SegmentJob)] == [TABLE[4]]


def test_what_is_not_on_its_way_waits_for_the_plan(manifest: Slow, ahead: Ahead) -> None:
    ahead.keep(())
    manifest.may_end.set()
    planning = Planning(manifest, Selection(), ahead, lambda: None)
    plan = planning.make()
    assert list(planning.jobs()) == in_order(plan, ahead) == list(plan.jobs())


def test_what_is_on_its_way_comes_first(manifest: Slow, ahead: Ahead) -> None:
    manifest.may_end.set()
    ahead.keep(())
    ahead.begin(TABLE[5:])
    jobs = in_order(make_plan(manifest, Selection()), ahead)
    assert [job.chunk for job in jobs] == [TABLE[5], TABLE[4], *TABLE[:3]]


def test_what_nobody_needs_is_given_back(manifest: Slow, ahead: Ahead) -> None:
    manifest.may_end.set()
    ahead.keep(())
    ahead.begin([TABLE[0], TABLE[5]])
    in_order(make_plan(manifest, Selection((b"last",))), ahead)
    assert ahead.chunk_ids == {TABLE[5].id}


def test_no_entry_is_lost_if_two_packs_are_alike(manifest: Slow, ahead: Ahead) -> None:
    manifest.may_end.set()
    # As no snapshot makes them, but a forged manifest may say.
    manifest.chunks()[1] = manifest.chunks()[0]
    planning = Planning(manifest, Selection(), ahead, lambda: None)
    planning.make()
    packs = [job for job in planning.jobs() if isinstance(job, PackJob)]
    assert sum(job.count for job in packs) == len(ENTRIES) - 1


def test_waiting_ends_when_all_stops(manifest: Slow, ahead: Ahead) -> None:
    def stop() -> None:
        raise CancelledError("the operation stops")

    with pytest.raises(CancelledError):
        next(Planning(manifest, Selection(), ahead, stop).jobs())
