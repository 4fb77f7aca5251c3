"""A pack is written by whole directories, and one by one where that does not work."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.errors import CancelledError
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_reader import Location, ManifestReader
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Entry
from agent.restore.keep import Keeper
from agent.restore.metadata import Metadata
from agent.restore.pack_writer import PackWriter
from agent.restore.plan import PackJob
from agent.restore.present import Comparing
from agent.restore.request import IfNotEmpty
from agent.restore.selection import Selection
from agent.restore.target import Folders
from agent.restore.tree_writer import TreeWriter
from agent.restore.writer import DIRECT_BYTES, Writer
from tests.support.forging import chunk, directory, file, summary

PACK = bytes(range(256)) * 16
RUN = [
    directory(b""),
    directory(b"a"),
    file(b"a/one", 0, 5),
    directory(b"a/two"),
    file(b"a/two/three", 512, 7, model=True),
    directory(b"last"),
    file(b"last/four", 1024, 9),
]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path / "target"


@pytest.fixture
def packs(target: Path) -> Iterator[PackWriter]:
    yield from writing(target, RUN, PACK)


def writing(target: Path, run: Sequence[Entry], pack: bytes, bypasses_cache: bool = False) -> Iterator[PackWriter]:
    written = io.BytesIO()
    manifest = ManifestWriter(written)
    for entry in run:
        manifest.add_entry(entry)
    manifest.finish(summary(), [chunk(pack)], [])
    data = written.getvalue()
    reader = ManifestReader(lambda offset, size: data[offset : offset + size], data, len(data))
    root_fd, work_fd = (os.open(path, DIRECTORY_FLAGS) for path in (target, target.parent / "work"))
    metadata = Metadata(warnings := Warnings())
    writer = Writer(Folders(root_fd, work_fd), 0, IfNotEmpty.FAIL, metadata, True, bypasses_cache, warnings)
    keeper = Keeper(root_fd, Comparing.NOT, metadata)
    trees = TreeWriter(writer, metadata, lambda: None)
    yield PackWriter(reader, Selection(), writer, keeper, trees, lambda: None)
    writer.close()
    os.close(root_fd)
    os.close(work_fd)


JOB = PackJob(chunk(PACK), Location(0, 0), len(RUN))


def contents(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in sorted(target.rglob("*")) if path.is_file()}


EXPECTED = {"a/one": PACK[:5], "a/two/three": PACK[512:519], "last/four": PACK[1024:1033]}


def test_all_is_written_and_counted(packs: PackWriter, target: Path) -> None:
    written = packs.write(JOB, memoryview(PACK))
    assert contents(target) == EXPECTED
    assert (written.entries, written.content_bytes, written.model_bytes) == (3, 21, 7)
    assert sorted(written.directories) == [1, 3]


def test_it_can_be_written_again(packs: PackWriter, target: Path) -> None:
    first = packs.write(JOB, memoryview(PACK))
    (target / "a/two/three").write_bytes(b"torn")
    again = packs.write(JOB, memoryview(PACK))
    assert contents(target) == EXPECTED
    assert (again.entries, again.content_bytes) == (first.entries, first.content_bytes)
    assert again.directories == (), "they were written into once more, which changed their times"


def test_it_can_be_broken_off(packs: PackWriter, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise CancelledError("cancelled")

    monkeypatch.setattr(packs, "_check", stop)
    with pytest.raises(CancelledError):
        packs.write(JOB, memoryview(PACK))
    assert "last/four" not in contents(target)


def test_files_past_the_page_cache_are_in_their_places_at_the_end(target: Path) -> None:
    size = DIRECT_BYTES
    pack = bytes(range(256)) * (3 * size // 256)
    # One in a tree, one in a place that is taken, and one beside them.
    run = [
        directory(b""),
        directory(b"a"),
        file(b"a/one", 0, size),
        directory(b"b"),
        file(b"b/two", size, size + 1),
        file(b"three", size + 1, size + 2),
    ]
    (target / "b").mkdir()
    (target / "b/there").write_bytes(b"x")
    for packs in writing(target, run, pack, bypasses_cache=True):
        written = packs.write(PackJob(chunk(pack), Location(0, 0), len(run)), memoryview(pack))
    assert contents(target) == {
        "a/one": pack[:size],
        "b/there": b"x",
        "b/two": pack[size : 2 * size + 1],
        "three": pack[size + 1 : 2 * size + 3],
    }
    assert (written.entries, written.content_bytes, written.directories) == (3, 3 * size + 3, (1,))
    assert os.listdir(target.parent / "work") == []
