"""Unchanged runs are exactly the packs and large files of the parent that are there whole."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.model import ScanConfig
from agent.errors import DataLossError
from agent.events import ChunkKind, ClassTotals, ScanTotals
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_reader import ManifestReader
from agent.repository.manifest_walk import SavedEntry, finder
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Chunk, Entry, EntryType, SnapshotSummary
from agent.snapshot import compare as compare_module
from agent.snapshot.compare import compare
from agent.snapshot.parent import RACY_NS, Parent
from agent.snapshot.plan import LargePlan, PackPlan, plan
from agent.snapshot.unchanged import UnchangedRun, reliable
from tests.support import forging

MIB = 1 << 20
LARGE = 16 * MIB


def manifest(entries: list[Entry], table: list[Chunk], summary: SnapshotSummary | None = None) -> ManifestReader:
    file = io.BytesIO()
    writer = ManifestWriter(file)
    for entry in entries:
        writer.add_entry(entry)
    writer.finish(summary or forging.summary(), table, [])
    data = file.getvalue()
    return ManifestReader(lambda offset, size: data[offset : offset + size], data, len(data))


def stored(entries: list[Entry]) -> tuple[list[Entry], list[Chunk]]:
    """Returns entries and chunk table as a snapshot of ``entries`` would have them."""
    placed: list[Entry] = []
    table: list[Chunk] = []

    def add(kind: ChunkKind, size: int) -> None:
        table.append(Chunk(len(table).to_bytes(32, "big"), size, size, kind))

    for item in plan(entries, LARGE):
        assert not isinstance(item, UnchangedRun)
        number = len(table)
        if isinstance(item, PackPlan):
            placed += [msgspec.structs.replace(entry, chunk=number) for entry in item.entries]
            add(ChunkKind.PACK, 64 * MIB)
            continue
        segments = -(-item.entry.data_size // (64 * MIB))
        placed.append(msgspec.structs.replace(item.entry, chunk=number, segments=segments))
        add(ChunkKind.HEADER, 512)
        for _ in range(segments):
            add(ChunkKind.SEGMENT, 64 * MIB)
    return placed, table


SIZES = st.lists(
    st.one_of(st.integers(0, MIB), st.integers(0, 15 * MIB), st.sampled_from([LARGE, 100 * MIB])), max_size=60
)


def files(sizes: list[int]) -> list[Entry]:
    return [forging.file(b"%04d" % (10 * number), 0, size) for number, size in enumerate(sizes)]


def flat(items: list[Entry | UnchangedRun]) -> list[Entry]:
    return list(itertools.chain(*(item.anew() if isinstance(item, UnchangedRun) else [item] for item in items)))


@settings(max_examples=200, deadline=None)
@given(sizes=SIZES, data=st.data())
def test_runs_are_what_a_chunk_holds_and_the_plan_is_that_of_a_scan_without_a_parent(
    sizes: list[int], data: st.DataObject
) -> None:
    entries = files(sizes)
    placed, table = stored(entries)
    find = finder(manifest(placed, table), forging.refuse)
    found: list[Entry | SavedEntry] = []
    for entry in entries:
        kind = data.draw(st.sampled_from(["same"] * 20 + ["changed", "gone", "with another before"]))
        saved = find(entry.path)
        assert saved is not None
        if kind == "same":
            found.append(saved)
        elif kind == "changed":
            found.append(msgspec.structs.replace(entry, mtime_ns=1, size=5, data_size=5))
        elif kind == "with another before":
            number = int(entry.path) - 1
            found += [forging.file(b"%04d" % number, 0, data.draw(st.sampled_from([0, MIB, LARGE]))), saved]
    compared = list(compare(found, table))
    now = [item.unplaced() if isinstance(item, SavedEntry) else item for item in found]
    assert flat(compared) == now

    # A naive search for the runs: chunks all of whose entries were found, one after another.
    whole = []
    for number, held in itertools.groupby(placed, key=lambda entry: entry.chunk):
        paths = [entry.path for entry in held]
        kept = [place for place, item in enumerate(found) if isinstance(item, SavedEntry) and item.chunk == number]
        if len(kept) == len(paths) and kept[-1] - kept[0] == len(kept) - 1:
            whole.append(paths)
    runs = [item for item in compared if isinstance(item, UnchangedRun)]
    assert [[saved.path for saved in run.saved] for run in runs] == whole

    fresh = [[entry.path for entry in entries_of(item)] for item in plan(now, LARGE)]
    planned = list(plan(compared, LARGE))
    assert [[entry.path for entry in entries_of(item)] for item in planned] == fresh
    for item in planned:
        if isinstance(item, UnchangedRun):
            first = item.saved[0]
            assert list(item.chunks) == table[first.chunk : first.chunk + 1 + first.segments]
            assert item.totals.other.files == len(item.saved)


def entries_of(item: PackPlan | LargePlan | UnchangedRun) -> list[Entry]:
    if isinstance(item, UnchangedRun):
        return list(item.anew())
    return item.entries if isinstance(item, PackPlan) else [item.entry]


def saved_entries(reader: ManifestReader, paths: list[bytes]) -> list[SavedEntry]:
    find = finder(reader, forging.refuse)
    return [saved for path in paths if (saved := find(path)) is not None]


def test_an_unchanged_tree_is_runs_alone() -> None:
    entries = [forging.directory(b""), *files([1000] * 50 + [LARGE, 5, 70 * MIB, 100 * MIB, 7])]
    placed, table = stored(entries)
    found = saved_entries(manifest(placed, table), [entry.path for entry in entries])
    planned = list(plan(compare(found, table), LARGE))
    assert all(isinstance(item, UnchangedRun) for item in planned)
    assert [chunk for item in planned if isinstance(item, UnchangedRun) for chunk in item.chunks] == table


def test_totals_of_a_run() -> None:
    entries = [
        forging.directory(b""),
        forging.file(b"a", 0, 10, model=True),
        forging.file(b"b", 0, 20),
        forging.hard_link(b"c", b"b"),
        forging.symlink(b"d", b"b"),
    ]
    placed, table = stored(entries)
    (run,) = compare(saved_entries(manifest(placed, table), [entry.path for entry in entries]), table)
    assert isinstance(run, UnchangedRun)
    assert run.totals == ScanTotals(5, 1, 2, ClassTotals(1, 10), ClassTotals(1, 20))
    assert run.links_to({1})
    assert not run.links_to({2})


def test_a_longer_run_than_memory_has_room_for_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "MAX_RUN", 10)
    entries = files([5] * 12)
    placed, table = stored(entries)
    found = saved_entries(manifest(placed, table), [entry.path for entry in entries])
    assert list(compare(found, table)) == entries


@pytest.mark.parametrize("case", ["beyond the table", "no pack", "beyond the pack", "segments"])
def test_a_parent_that_contradicts_itself_is_read_again(case: str) -> None:
    entries = files([100, 200])
    placed, table = stored(entries)
    if case == "beyond the table":
        placed = [msgspec.structs.replace(entry, chunk=7) for entry in placed]
    elif case == "no pack":
        table = [msgspec.structs.replace(chunk, kind=ChunkKind.END) for chunk in table]
    elif case == "segments":
        placed[0] = msgspec.structs.replace(placed[0], segments=1)
    else:
        placed[1] = msgspec.structs.replace(placed[1], data_offset=64 * MIB - 199)
    found = saved_entries(manifest(placed, table), [entry.path for entry in entries])
    assert [type(item) for item in compare(found, table)] == [Entry, Entry]


def test_runs_whose_chunks_may_not_be_relied_on_are_read_again() -> None:
    entries = files([100, LARGE, 200])
    placed, table = stored(entries)
    found = saved_entries(manifest(placed, table), [entry.path for entry in entries])
    runs = list(compare(found, table))
    segment = next(chunk for chunk in table if chunk.kind is ChunkKind.SEGMENT)
    kept = list(reliable(runs, lambda chunks: segment not in chunks))
    assert [type(item) for item in kept] == [UnchangedRun, Entry, UnchangedRun]
    assert flat(kept) == entries


class Touched:
    """A real file, and what a parent says that began some time after the file was last changed."""

    def __init__(self, path: Path, age_ns: int) -> None:
        path.write_bytes(b"content")
        self.facts = os.stat(path)
        self.entry = forging.file(
            b"file",
            0,
            self.facts.st_size,
            mtime_ns=self.facts.st_mtime_ns,
            ctime_ns=self.facts.st_ctime_ns,
            inode=self.facts.st_ino,
            device=self.facts.st_dev,
        )
        self.summary = msgspec.structs.replace(forging.summary(), start_time_ns=self.facts.st_ctime_ns + age_ns)

    def is_untouched(self, **fields: object) -> bool:
        entry = msgspec.structs.replace(self.entry, **fields)
        parent = Parent(manifest([entry], [forging.chunk(b"x" * 100)], self.summary), ScanConfig(), Warnings())
        saved = parent.find(b"file")
        assert saved is not None
        return parent.is_untouched(saved, self.facts, 0)


def test_a_change_just_before_the_parent_began_counts_as_one_after(tmp_path: Path) -> None:
    assert Touched(tmp_path / "file", RACY_NS + 1).is_untouched()
    for age in (RACY_NS, 0, -(10**12)):
        assert not Touched(tmp_path / "file", age).is_untouched()


@pytest.mark.parametrize("ahead", [86_400 * 10**9, -86_400 * 10**9])
def test_times_of_files_are_compared_with_the_machine_s_clock(tmp_path: Path, ahead: int) -> None:
    for age, is_untouched in ((RACY_NS + 1, True), (RACY_NS, False)):
        touched = Touched(tmp_path / "file", age + ahead)
        touched.summary = msgspec.structs.replace(touched.summary, clock_ahead_ns=ahead)
        assert touched.is_untouched() == is_untouched


@pytest.mark.parametrize("field", ["size", "mtime_ns", "ctime_ns", "inode", "device"])
def test_every_fact_tells_a_change(tmp_path: Path, field: str) -> None:
    touched = Touched(tmp_path / "file", 10**10)
    more = {"data_size": touched.entry.size + 1} if field == "size" else {}
    assert not touched.is_untouched(**{field: getattr(touched.entry, field) + 1, **more})


def test_a_file_is_no_directory_even_if_all_facts_agree(tmp_path: Path) -> None:
    touched = Touched(tmp_path / "file", 10**10)
    assert touched.is_untouched()
    assert not touched.is_untouched(type=EntryType.DIRECTORY)


def test_what_an_older_version_saved_says_nothing(tmp_path: Path) -> None:
    assert not Touched(tmp_path / "file", 10**10).is_untouched(device=0)


def test_damage_in_the_middle_ends_the_comparison_with_a_warning() -> None:
    entries = [forging.directory(b"%05d" % number) for number in range(5000)]
    reader = manifest(entries, [forging.chunk(b"x" * 100)])
    reader.section_index(2).hash = bytes(32)
    warnings = Warnings()
    parent = Parent(reader, ScanConfig(), warnings)
    found = [parent.find(entry.path) for entry in entries]
    assert found[0] is not None
    assert found[-1] is None
    assert warnings.count == 1
    with pytest.raises(DataLossError):
        reader.section(2)
