"""Restores over a target that holds the content under other names: it is copied from there, not fetched."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.events import ChunkKind, OperationResult
from agent.repository.model import SEGMENT_SIZE
from agent.restore import elsewhere, reuse
from agent.restore.elsewhere import Elsewhere
from agent.restore.request import IfNotEmpty
from tests.support.pipelines import leftovers, memory_folder
from tests.support.saved import Saved
from tests.support.trees import File, Node, Seeded, Sparse, facts

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
    pipelines = saved.pipelines
    pipelines.transfer = msgspec.structs.replace(pipelines.transfer, workers=workers)
    outside = facts(os.fsencode(saved.outside))
    target = os.fsencode(saved.target)
    result = pipelines.restore(target, saved.id, if_not_empty=mode, paths=paths, checksum=checksum)
    assert facts(os.fsencode(saved.outside)) == outside
    assert leftovers(target) == []
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


@pytest.mark.parametrize("most", [1, elsewhere.FILES_ALIKE])
def test_touched_files_are_not_fetched(saved: Saved, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are looked for under their own names first, however many others are as large."""
    monkeypatch.setattr(elsewhere, "FILES_ALIKE", most)
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
    assert saved.pipelines.moved() == {chunk.id.hex() for chunk in saved.chunks if chunk.kind is ChunkKind.PACK}
    assert copied(result) == 0


@pytest.mark.parametrize("change", [Path.unlink, lambda path: os.truncate(path, 3)], ids=["gone", "shorter"])
def test_a_pack_of_which_something_is_missing_is_fetched(saved: Saved, change: Callable[[Path], None]) -> None:
    (saved.target / "env").rename(saved.target / "old")
    change(saved.target / "old/lib/three/20.py")
    over(saved)
    assert saved.pipelines.moved() == {chunk.id.hex() for chunk in saved.chunks if chunk.kind is ChunkKind.PACK}


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
        def __init__(self, root_fd: int, check: Callable[[], None]) -> None:
            super().__init__(root_fd, check)
            left.pop()(saved.target / "old/lib/one/33.py")

    monkeypatch.setattr(reuse, "Elsewhere", Changed)
    for _ in changes:
        over(saved)
        assert len(saved.pipelines.moved()) == 1
        (saved.target / "env").rename(saved.target / "old")
    assert left == []


def test_only_packs_that_lack_something_are_fetched(folder: Path) -> None:
    files: list[Node] = [
        File(b"%02d/%02d" % (part, number), Seeded(400_000, seed=part * 10 + number))
        for part in range(20)
        for number in range(10)
    ]
    saved = Saved(folder, files, large=1 << 20)
    saved.restore()
    assert sum(chunk.kind is ChunkKind.PACK for chunk in saved.chunks) > 3
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


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("checksum", [False, True])
def test_large_files_that_changed_places_are_copied(folder: Path, checksum: bool, workers: int) -> None:
    saved = Saved(folder, models(12))
    saved.restore()
    (saved.target / "model-00").rename(saved.target / "first")
    for number in range(1, 12):
        (saved.target / f"model-{number:02}").rename(saved.target / f"model-{number - 1:02}")
    (saved.target / "first").rename(saved.target / "model-11")
    # Their times tell that they changed.
    for number in range(12):
        os.utime(saved.target / f"model-{number:02}")
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


def test_files_that_begin_alike_are_told_apart(folder: Path) -> None:
    """Only the first segment of a file under another name is looked at before it is copied."""
    begin = random.Random(1).randbytes(SEGMENT_SIZE)
    nodes: list[Node] = [File(name, begin + name * 2000) for name in (b"one", b"two", b"three")]
    saved = Saved(folder, nodes)
    saved.restore()
    for name in ("one", "two", "three"):
        (saved.target / name).rename(saved.target / f"old {name}")
    over(saved)
    assert saved.pipelines.moved() == set()
