"""Restores over a target that holds the content under other names: it is copied from there, not fetched."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pytest

from agent.events import ChunkKind, OperationResult
from agent.repository.model import SEGMENT_SIZE
from agent.restore import elsewhere, reuse, reuse_segments
from agent.restore.elsewhere import Elsewhere
from agent.restore.hands import Hand, Hands
from agent.restore.request import IfNotEmpty
from agent.restore.task import LocalTask, SegmentCopy, SegmentDigest, Written
from tests.support.children import needs_root
from tests.support.disks import Disk
from tests.support.forging import chunk, directory, file, store_snapshot
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.saved import Saved
from tests.support.trees import File, Node, Seeded, Sparse

OVERWRITE, MIRROR = IfNotEmpty.OVERWRITE, IfNotEmpty.MIRROR


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-elsewhere-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


def over(
    saved: Saved, *paths: bytes, mode: IfNotEmpty = MIRROR, checksum: bool = False, workers: int = 1
) -> OperationResult:
    """Restores over what is there; the target is then as the workspace was, and nothing outside was touched."""
    result = saved.restore_over(*paths, mode=mode, checksum=checksum, workers=workers)
    if mode is MIRROR:
        assert saved.differences() == []
    return result


def copied(result: OperationResult) -> int:
    assert result.present is not None
    return result.present.copied_bytes


SMALL: list[Node] = [
    File(
        b"env/lib/%s/%02d.py" % (package, number),
        Seeded(500 + 7 * number, seed=number + seed),
        mtime_ns=(1_700_000_000 + number + seed) * 10**9,
    )
    for package, seed in ((b"one", 0), (b"three", 100))
    for number in range(40)
]
SMALL_TREE: list[Node] = [
    *SMALL,
    File(b"env/sparse", Sparse(200_000, ((8192, 4096),))),
    File(b"env/empty", b""),
    File(b"notes", b"notes", xattrs=((b"user.kept", b"1"),)),
]
CONTENT = sum(500 + 7 * number for number in range(40)) * 2 + 4096 + len(b"notes")


@pytest.fixture
def saved(folder: Path) -> Saved:
    """A workspace of small files that is restored already."""
    saved = Saved(folder, SMALL_TREE)
    saved.restore()
    return saved


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("mode", [OVERWRITE, MIRROR])
def test_a_renamed_folder_is_copied(saved: Saved, mode: IfNotEmpty, checksum: bool, workers: int) -> None:
    (saved.target / "env").rename(saved.target / "old")
    (saved.target / "notes").rename(saved.target / "old/other name")
    result = over(saved, mode=mode, checksum=checksum, workers=workers)
    assert saved.pipelines.moved() == set()
    assert result.transferred_bytes == 0
    assert copied(result) == CONTENT


def test_a_copied_folder_is_copied_whatever_its_times(saved: Saved) -> None:
    shutil.copytree(saved.target / "env", saved.target / "venv", copy_function=shutil.copyfile)
    shutil.rmtree(saved.target / "env")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_touched_files_are_not_fetched(saved: Saved) -> None:
    for path in saved.target.rglob("*"):
        os.utime(path, ns=(1, 1))
    result = over(saved)
    assert saved.pipelines.moved() == set()
    assert copied(result) == 0


def test_files_that_have_each_others_names_are_copied(saved: Saved) -> None:
    one, three = saved.target / "env/lib/one", saved.target / "env/lib/three"
    for number in range(40):
        (one / f"{number:02}.py").rename(saved.target / "moved")
        (three / f"{number:02}.py").rename(one / f"{number:02}.py")
        (saved.target / "moved").rename(three / f"{number:02}.py")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_single_paths_are_copied(saved: Saved) -> None:
    (saved.target / "env/lib/one").rename(saved.target / "two")
    over(saved, b"env/lib/one/07.py", mode=OVERWRITE)
    assert saved.pipelines.moved() == set()
    assert (saved.target / "env/lib/one/07.py").read_bytes() == (saved.workspace / "env/lib/one/07.py").read_bytes()
    assert [path.name for path in (saved.target / "env/lib/one").iterdir()] == ["07.py"]


def change_keeping_times(path: Path) -> None:
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("checksum", [False, True])
def test_what_only_looks_alike_is_fetched(saved: Saved, checksum: bool) -> None:
    (saved.target / "env").rename(saved.target / "old")
    change_keeping_times(saved.target / "old/lib/three/20.py")
    result = over(saved, checksum=checksum)
    assert saved.pipelines.moved() == {each.id.hex() for each in saved.chunks if each.kind is ChunkKind.PACK}
    assert copied(result) == 0


@pytest.mark.parametrize("change", [Path.unlink, lambda path: os.truncate(path, 3)], ids=["gone", "shorter"])
def test_a_pack_of_which_something_is_missing_is_fetched(saved: Saved, change: Callable[[Path], None]) -> None:
    (saved.target / "env").rename(saved.target / "old")
    change(saved.target / "old/lib/three/20.py")
    over(saved)
    assert saved.pipelines.moved() == {each.id.hex() for each in saved.chunks if each.kind is ChunkKind.PACK}


def test_a_sparse_file_is_copied_without_what_fills_its_holes(saved: Saved) -> None:
    (saved.target / "env").rename(saved.target / "old")
    with (saved.target / "old/sparse").open("r+b") as file:
        file.seek(100_000)
        file.write(b"filled")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_what_changes_once_it_was_found_is_fetched(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved.target / "env").rename(saved.target / "old")
    (saved.outside / "secret").write_bytes((saved.target / "old/lib/one/33.py").read_bytes())

    def link_out(path: Path) -> None:
        path.unlink()
        path.symlink_to(saved.outside / "secret")

    def overwrite(path: Path) -> None:
        path.write_bytes(b"longer" * 1000)

    changes: list[Callable[[Path], None]] = [Path.unlink, lambda path: os.truncate(path, 3), overwrite, link_out]
    left = list(changes)

    class Changed(Elsewhere):
        def __init__(self, root_fd: int, sizes: Container[int], check: Callable[[], None]) -> None:
            super().__init__(root_fd, sizes, check)
            left.pop()(saved.target / "old/lib/one/33.py")

    monkeypatch.setattr(reuse, "Elsewhere", Changed)
    for _ in changes:
        over(saved)
        assert len(saved.pipelines.moved()) == 1
        (saved.target / "env").rename(saved.target / "old")
    assert left == []


def test_a_pack_that_has_no_room_for_its_files_is_fetched(folder: Path) -> None:
    """No snapshot makes one, but a forged manifest may let two files have the same bytes."""
    pipelines, target = Pipelines(folder), folder / "target"
    raw = bytes(range(256)) * 2
    entries = [directory(b""), *(file(path, 0, 100, uid=os.geteuid(), gid=os.getegid()) for path in (b"a", b"b"))]
    store_snapshot(pipelines.repository, folder / "manifest", entries, [(raw, ChunkKind.PACK)])
    pipelines.restore(os.fsencode(target))
    (target / "a").rename(target / "c")
    pipelines.restore(os.fsencode(target), if_not_empty=MIRROR)
    assert pipelines.moved() == {chunk(raw).id.hex()}
    assert [path.read_bytes() for path in sorted(target.iterdir())] == [raw[:100]] * 2


def test_only_packs_that_lack_something_are_fetched(folder: Path) -> None:
    files: list[Node] = [
        File(b"%02d/%02d" % (part, number), Seeded(400_000, seed=part * 10 + number))
        for part in range(20)
        for number in range(10)
    ]
    saved = Saved(folder, files, large=1 << 20)
    saved.restore()
    assert sum(each.kind is ChunkKind.PACK for each in saved.chunks) > 3
    (saved.target / "old").mkdir()
    for part in range(20):
        (saved.target / f"{part:02}").rename(saved.target / f"old/{part:02}")
    (saved.target / "old/07/03").unlink()
    result = over(saved, workers=2)
    lost = saved.chunk_of(b"07/03")
    assert saved.pipelines.moved() == {lost.id.hex()}
    in_it = sum(saved.chunk_of(path) == lost for path, entry in saved.entries.items() if entry.data_size)
    assert copied(result) == (200 - in_it) * 400_000


def models(count: int, size: int = 7000) -> list[Node]:
    return [File(b"model-%02d" % number, Seeded(size, seed=number)) for number in range(count)]


def rotate(saved: Saved, count: int) -> None:
    """Gives each model the name of the one before; their times tell that they changed."""
    (saved.target / "model-00").rename(saved.target / "first")
    for number in range(1, count):
        (saved.target / f"model-{number:02}").rename(saved.target / f"model-{number - 1:02}")
    (saved.target / "first").rename(saved.target / f"model-{count - 1:02}")
    for number in range(count):
        os.utime(saved.target / f"model-{number:02}")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("checksum", [False, True])
def test_large_files_that_changed_places_are_copied(folder: Path, checksum: bool, workers: int) -> None:
    saved = Saved(folder, models(12))
    saved.restore()
    rotate(saved, 12)
    result = over(saved, checksum=checksum, workers=workers)
    assert saved.pipelines.moved() == set()
    assert copied(result) == 12 * 7000


def test_large_files_of_other_sizes_that_changed_places_are_copied(folder: Path) -> None:
    saved = Saved(folder, [*models(1), File(b"other", Seeded(9000, seed=99))])
    saved.restore()
    (saved.target / "other").rename(saved.target / "swapped")
    (saved.target / "model-00").rename(saved.target / "other")
    (saved.target / "swapped").rename(saved.target / "model-00")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_many_renamed_files_of_one_size_are_copied(folder: Path) -> None:
    saved = Saved(folder, models(30))
    saved.restore()
    for number in range(30):
        (saved.target / f"model-{number:02}").rename(saved.target / f"old-{29 - number:02}")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_sparse_files_of_one_size_are_copied(folder: Path) -> None:
    one, other = Sparse(300_000, ((0, 4096), (200_000, 9000)), seed=1), Sparse(300_000, ((50_000, 9000),), seed=2)
    saved = Saved(folder, [File(b"one", one), File(b"other", other)])
    saved.restore()
    for name in ("one", "other"):
        (saved.target / name).rename(saved.target / f"old {name}")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_the_end_of_a_file_is_not_taken_from_another_one(folder: Path) -> None:
    """Two files may share their last chunk, whose padding is zeros, though one of them is longer by some of these."""
    content = random.Random(1).randbytes(SEGMENT_SIZE + 1000)
    saved = Saved(folder, [File(b"long", content + bytes(24)), File(b"short", content)])
    saved.target.mkdir()
    (saved.target / "old").write_bytes(content + b"\xff" * 24)
    over(saved)


def test_one_missing_file_is_looked_for_in_few_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Saved(folder, models(1))
    saved.target.mkdir()
    for number in range(50):
        (saved.target / f"checkpoint-{number}").write_bytes(bytes(7000))
    looks: list[SegmentDigest] = []
    do = Hands.do

    def count(self: Hands, hand: Hand, task: LocalTask) -> Written:
        if isinstance(task, SegmentDigest):
            looks.append(task)
        return do(self, hand, task)

    monkeypatch.setattr(Hands, "do", count)
    over(saved)
    assert len(looks) == reuse_segments.MORE_LOOKS + reuse_segments.LOOKS_PER_FILE


def test_a_file_that_only_begins_alike_is_copied_in_vain_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = random.Random(1).randbytes(SEGMENT_SIZE)
    rest = [random.Random(number).randbytes(SEGMENT_SIZE) for number in (2, 3)]
    saved = Saved(folder, [File(b"model", begin + rest[0] + rest[1])])
    saved.target.mkdir()
    (saved.target / "sibling").write_bytes(begin + rest[1] + rest[0])
    copies: list[bool] = []
    do = Hands.do

    def count(self: Hands, hand: Hand, task: LocalTask) -> Written:
        written = do(self, hand, task)
        if isinstance(task, SegmentCopy):
            copies.append(written.is_done)
        return written

    monkeypatch.setattr(Hands, "do", count)
    over(saved)
    assert sorted(copies) == [False, True]


def test_what_is_in_place_is_looked_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Saved(folder, models(20))
    saved.restore()
    monkeypatch.setattr(reuse, "Elsewhere", None)
    over(saved, checksum=True)
    assert saved.pipelines.moved() == set()


@pytest.mark.parametrize("is_touched", [False, True])
def test_a_renamed_folder_of_very_many_files_of_one_size_is_copied(
    folder: Path, is_touched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "SAME_KIND", 3)
    nodes: list[Node] = [
        File(b"shards/%02d" % number, Seeded(7000, seed=number), mtime_ns=(1_700_000_000 + number) * 10**9)
        for number in range(30)
    ]
    saved = Saved(folder, nodes)
    saved.restore()
    (saved.target / "shards").rename(saved.target / "old")
    for path in (saved.target / "old").iterdir() if is_touched else ():
        os.utime(path)
    over(saved)
    assert saved.pipelines.moved() == set()


def alike(folder: Path) -> Saved:
    """Saves files of which only the second segments differ, and restores them."""
    begin = random.Random(1).randbytes(SEGMENT_SIZE)
    nodes: list[Node] = [File(b"models/" + name, begin + name * 2000) for name in (b"one", b"two", b"three")]
    saved = Saved(folder, nodes)
    saved.restore()
    return saved


def test_files_that_begin_alike_are_told_apart(folder: Path) -> None:
    """Only the first segment of a file under another name is looked at before it is copied."""
    saved = alike(folder)
    for name in ("one", "two", "three"):
        (saved.target / "models" / name).rename(saved.target / f"old {name}")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_of_files_that_begin_alike_one_of_the_same_name_comes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse_segments, "MOST_SOURCES", 1)
    saved = alike(folder)
    (saved.target / "models").rename(saved.target / "old")
    over(saved)
    assert saved.pipelines.moved() == set()


@needs_root
@pytest.mark.parametrize(("spare", "copied_all"), [(2.5, True), (1.5, False)])
def test_files_that_change_places_need_little_more_room(folder: Path, spare: float, copied_all: bool) -> None:
    """Each takes its place as soon as nothing more is copied from what stands there; what does not fit is fetched."""
    size, count = 1 << 20, 12
    saved = Saved(folder, models(count, size))
    disk = Disk(folder / "disk", int((count + spare) * size))
    try:
        saved.target = disk.folder / "target"
        saved.restore()
        rotate(saved, count)
        over(saved)
        assert (saved.pipelines.moved() == set()) is copied_all
    finally:
        disk.close()
