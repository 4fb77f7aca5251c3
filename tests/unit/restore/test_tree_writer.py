"""Whole directories are built in the work folder and renamed."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import CancelledError, LocalIoError, NoSpaceError
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.pipeline.warnings import Warnings
from agent.repository.model import Entry, order
from agent.restore import tree_writer
from agent.restore.metadata import Metadata
from agent.restore.request import IfNotEmpty
from agent.restore.segment_file import SegmentFile
from agent.restore.target import Folders
from agent.restore.tree_writer import Done, TreeWriter
from agent.restore.writer import DIRECT_BYTES, TreePlace, Writer
from tests.support.forging import directory, file, hard_link, symlink
from tests.support.pipelines import memory_folder

PACK = bytes(range(256)) * (2 * DIRECT_BYTES // 256)


def owned(entry: Entry, **fields: object) -> Entry:
    return msgspec.structs.replace(entry, uid=os.geteuid(), gid=os.getegid(), mtime_ns=10**18 + 5, **fields)


RUN = [
    owned(directory(b"d/e"), mode=0o750),
    owned(file(b"d/e/a", 0, 100), mode=0o640),
    owned(directory(b"d/e/f"), mode=0o555),
    owned(file(b"d/e/f/b", 512, DIRECT_BYTES + 513)),
    owned(symlink(b"d/e/l", b"a")),
]


class Place:
    """A target and a work folder, and what writes into them."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root, work
        root.mkdir()
        work.mkdir(exist_ok=True)
        self._folders = Folders(os.open(root, DIRECTORY_FLAGS), os.open(work, DIRECTORY_FLAGS))
        warnings = Warnings()
        metadata = Metadata(warnings)
        self.writer = Writer(self._folders, 0, IfNotEmpty.FAIL, metadata, True, True, warnings)
        self._trees = TreeWriter(self.writer, metadata, self._check)
        # Entries after which all shall stop.
        self.steps = 99

    def begin(self, run: list[Entry], tree: range, done: Done) -> None:
        self._trees.write(run, tree, memoryview(PACK), done)

    def write(self, run: list[Entry], tree: range) -> list[int] | None:
        finished: list[list[int] | None] = []
        try:
            self.begin(run, tree, finished.append)
            self.writer.finish()
        finally:
            self.writer.settle()
        (found,) = finished
        return found

    def _check(self) -> None:
        if not self.steps:
            raise CancelledError("cancelled")
        self.steps -= 1

    def close(self) -> None:
        self.writer.close()
        os.close(self._folders.root_fd)
        os.close(self._folders.work_fd)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "target", tmp_path / "work")
    yield place
    place.close()


def test_a_tree_is_put_in_its_place_with_all_metadata(place: Place) -> None:
    expected = [2, 0] if os.geteuid() == 0 else [0]
    assert place.write(RUN, range(len(RUN))) == expected
    top = place.root / "d" / "e"
    assert (top / "a").read_bytes() == PACK[:100]
    assert (top / "f" / "b").read_bytes() == PACK[512 : 512 + DIRECT_BYTES + 513]
    assert (top / "l").readlink() == Path("a")
    for entry in (RUN[0], RUN[1], RUN[3]):
        facts = (place.root / os.fsdecode(entry.path)).stat()
        assert (stat.S_IMODE(facts.st_mode), facts.st_mtime_ns) == (entry.mode, entry.mtime_ns)
    assert list(place.work.iterdir()) == []


def test_what_follows_a_deep_directory_lies_where_it_belongs(place: Place) -> None:
    paths = (b"d/e/f/g/h", b"d/e/i", b"d/e/j/k/l", b"d/e/j/m")
    folders = [b"d/e", b"d/e/f", b"d/e/f/g", b"d/e/j", b"d/e/j/k"]
    run = sorted([*map(directory, folders), *map(file, paths)], key=lambda entry: order(entry.path))
    assert place.write([owned(entry) for entry in run], range(len(run))) is not None
    assert {os.fsencode(path.relative_to(place.root)) for path in place.root.rglob("*") if path.is_file()} == set(paths)


def test_a_directory_that_gets_further_names_is_left_without_metadata(place: Place) -> None:
    run = [*RUN, owned(hard_link(b"d/e/z", b"d/e/a"))]
    finished = place.write(run, range(len(run)))
    assert finished is not None
    assert 0 not in finished
    assert not (place.root / "d/e/z").exists()


def test_a_user_leaves_a_directory_open_that_would_shut_him_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    place = Place(tmp_path / "target", tmp_path / "work")
    monkeypatch.undo()
    assert place.write(RUN, range(len(RUN))) == [0]
    assert stat.S_IMODE((place.root / "d/e/f").stat().st_mode) == 0o700, "and open to nobody else"
    place.close()


def test_a_place_that_is_taken(place: Place) -> None:
    there = place.root / "d" / "e" / "there"
    there.parent.mkdir(parents=True)
    there.write_text("x")
    assert place.write(RUN, range(len(RUN))) is None
    assert there.read_text() == "x"
    assert os.listdir(there.parent) == ["there"]
    assert list(place.work.iterdir()) == [], "what was built is removed"


def test_a_file_where_the_directory_belongs(place: Place) -> None:
    (place.root / "d").mkdir()
    (place.root / "d" / "e").write_text("x")
    assert place.write(RUN, range(len(RUN))) is None
    assert (place.root / "d" / "e").read_text() == "x"


def test_another_file_system(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as work:
        if os.stat(work).st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is only one file system")
        place = Place(tmp_path / "target", Path(work))
        assert place.write(RUN, range(len(RUN))) is None
        place.close()


def test_an_error_names_the_entry(place: Place) -> None:
    run = [RUN[0], owned(file(b"d/e/" + b"n" * 300, 0, 1))]
    with pytest.raises(LocalIoError, match=r"d/e/nnn.* cannot be written"):
        place.write(run, range(2))
    assert not (place.root / "d" / "e").exists()


def test_it_can_be_broken_off_and_holds_nothing_open(place: Place) -> None:
    place.write([owned(directory(b"d/a"))], range(1))
    before = len(os.listdir("/proc/self/fd"))
    place.steps = 3
    with pytest.raises(CancelledError):
        place.write(RUN, range(len(RUN)))
    assert not (place.root / "d" / "e").exists()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def _slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets direct writes take a while."""
    write = SegmentFile.write

    def late(self: SegmentFile, start: int, content: memoryview) -> None:
        threading.Event().wait(0.1)
        write(self, start, content)

    monkeypatch.setattr(SegmentFile, "write", late)


DIRECT = PACK[512 : 1025 + DIRECT_BYTES]
BIG = owned(file(b"b", 512, DIRECT_BYTES + 513))


@pytest.mark.usefixtures("_slow_disk")
def test_a_tree_takes_its_place_once_its_files_are_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[bytes] = []
    move = tree_writer._move

    def look(tree: TreePlace) -> bool:
        moved.append((place.work / os.fsdecode(tree.temporary) / "f/b").read_bytes())
        return move(tree)

    monkeypatch.setattr(tree_writer, "_move", look)
    place.write(RUN, range(len(RUN)))
    assert moved == [DIRECT]


@pytest.mark.usefixtures("_slow_disk")
def test_a_file_takes_its_place_once_it_is_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[bytes] = []
    rename = os.rename

    def look(source: bytes, target: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        renamed.append((place.work / os.fsdecode(source)).read_bytes())
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", look)
    place.writer.write_small(BIG, memoryview(DIRECT))
    place.writer.finish()
    assert renamed == [DIRECT]


@pytest.mark.usefixtures("_slow_disk")
def test_what_follows_does_not_wait_for_the_disk(place: Place) -> None:
    finished: list[list[int] | None] = []
    other = [owned(directory(b"d/x")), owned(file(b"d/x/y", 0, 100))]
    place.begin(RUN, range(len(RUN)), finished.append)
    place.writer.write_small(BIG, memoryview(DIRECT))
    place.begin(other, range(2), finished.append)
    assert finished == []
    assert os.listdir(place.root / "d") == []
    # What needs no wait has its place at once, even where the folder of what waits was left.
    for number in range(80):
        path = b"%d/a/b" % number
        place.writer.write_small(owned(file(path, 0, 1)), memoryview(b"x"))
        assert (place.root / os.fsdecode(path)).read_bytes() == b"x"
    place.writer.finish()
    assert len(finished) == 2
    assert None not in finished
    assert (place.root / "d/e/f/b").read_bytes() == (place.root / "b").read_bytes() == DIRECT
    assert (place.root / "d/x/y").read_bytes() == PACK[:100]
    assert list(place.work.iterdir()) == []


def test_after_an_error_nothing_that_waited_takes_its_place(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    is_second_there = threading.Event()

    def full(self: SegmentFile, start: int, content: memoryview) -> None:
        assert is_second_there.wait(30)
        raise OSError(errno.ENOSPC, "full")

    place.write([owned(directory(b"d/a"))], range(1))
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(SegmentFile, "write", full)
    place.writer.write_small(BIG, memoryview(DIRECT))
    place.begin([owned(directory(b"d/x")), owned(file(b"d/x/y", 0, 100))], range(2), lambda _: pytest.fail("done"))
    is_second_there.set()
    with pytest.raises(NoSpaceError, match="b cannot be written"):
        place.writer.finish()
    place.writer.settle()
    assert os.listdir(place.root / "d") == ["a"]
    assert not (place.root / "b").exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_direct_file_on_another_file_system(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as work:
        if os.stat(work).st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is only one file system")
        place = Place(tmp_path / "target", Path(work))
        before = len(os.listdir("/proc/self/fd"))
        place.writer.write_small(owned(file(b"d/b", 512, DIRECT_BYTES + 513)), memoryview(DIRECT))
        place.writer.finish()
        assert (place.root / "d/b").read_bytes() == DIRECT
        assert os.listdir(place.root / "d") == ["b"]
        assert os.listdir(work) == []
        assert len(os.listdir("/proc/self/fd")) <= before + 1, "the folder that was written into last"
        place.close()


def test_a_file_that_cannot_be_written_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: SegmentFile, start: int, content: memoryview) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(SegmentFile, "write", full)
    with pytest.raises(NoSpaceError, match="d/e/f/b cannot be written"):
        place.write(RUN, range(len(RUN)))
    assert list(place.root.rglob("b")) == []
