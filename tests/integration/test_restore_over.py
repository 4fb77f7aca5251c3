"""Restores over what is there: what is as it should be stays, and only what is not is fetched."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.config.model import MIB
from agent.events import ChunkKind, OperationResult, PresentReport
from agent.repository.model import SEGMENT_SIZE
from agent.restore import reuse, run
from agent.restore.links import intact_groups
from agent.restore.request import IfNotEmpty
from tests.support.forging import directory, file, store_snapshot
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.saved import VARIED_TREE, Saved
from tests.support.trees import (
    Fifo,
    File,
    Node,
    Seeded,
    Sparse,
    Symlink,
    facts,
)  # fmt: skip

OVERWRITE, MIRROR = IfNotEmpty.OVERWRITE, IfNotEmpty.MIRROR
IS_ROOT = os.geteuid() == 0

TREE: list[Node] = [
    *VARIED_TREE,
    Fifo(b"dir/pipe"),
    Symlink(b"link", b"x large"),
    File(b"dir/small b", b"b" * 300, xattrs=((b"user.kept", b"1"),)),
    File(b"dir/sparse", Sparse(200_000, ((8192, 4096),))),
    File(b"sparse large", Sparse(300_000, ((0, 4096), (200_000, 9000)))),
    File(b"y large", Seeded(9000, seed=7)),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-over-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def saved(folder: Path) -> Saved:
    """A workspace that is restored already."""
    saved = Saved(folder, TREE)
    saved.restore()
    return saved


def over(
    saved: Saved, *paths: bytes, mode: IfNotEmpty = OVERWRITE, checksum: bool = False, workers: int = 1
) -> OperationResult:
    """Restores over what is there; nothing outside is touched, and the target is then as the workspace was."""
    result = saved.restore_over(*paths, mode=mode, checksum=checksum, workers=workers)
    # The folder above single paths is not restored, and something was made in it for a while.
    assert [line for line in saved.differences() if not (paths and line.startswith(".: modification"))] == []
    assert result.chunks_transferred == len(saved.pipelines.moved())
    return result


def inodes(root: Path) -> dict[str, int]:
    """Returns the inode and the time of the last change of every file: tells whether it was written."""
    return {str(path): path.lstat().st_ino for path in root.rglob("*")}


def change_keeping_times(path: Path, position: int = 10) -> None:
    """Changes a byte of a file, but neither its size nor its time."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("mode", [OVERWRITE, MIRROR])
def test_an_intact_target_moves_no_chunk(saved: Saved, mode: IfNotEmpty, checksum: bool, workers: int) -> None:
    before = inodes(saved.target)
    result = over(saved, mode=mode, checksum=checksum, workers=workers)
    assert saved.pipelines.moved() == set()
    assert result.chunks > 0
    assert result.transferred_bytes == 0
    files = result.totals.models.files + result.totals.other.files
    assert result.present == PresentReport(files, result.totals.models.bytes + result.totals.other.bytes, 0)
    assert inodes(saved.target) == before


def test_an_intact_target_is_not_gone_through(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[object] = []
    monkeypatch.setattr(reuse, "Elsewhere", lambda *arguments: searched.append(arguments))
    over(saved)
    assert searched == []


def test_a_large_file_that_was_empty_once_it_was_read_stays(folder: Path) -> None:
    pipelines, target = Pipelines(folder), folder / "target"
    entries = [directory(b""), file(b"log", chunk=1, segments=0, uid=os.geteuid(), gid=os.getegid())]
    chunks = [(b"pack" * 128, ChunkKind.PACK), (b"head" * 128, ChunkKind.HEADER)]
    store_snapshot(pipelines.repository, folder / "manifest", entries, chunks)
    pipelines.restore(os.fsencode(target))
    before = inodes(target)
    pipelines.restore(os.fsencode(target), if_not_empty=OVERWRITE)
    assert inodes(target) == before


def test_a_fresh_target_holds_nothing(saved: Saved) -> None:
    result = saved.pipelines.restore(os.fsencode(saved.folder / "fresh"), saved.id, if_not_empty=OVERWRITE)
    assert result.present is None
    assert result.chunks_transferred == result.chunks


def test_single_paths_of_an_intact_target_move_no_chunk(saved: Saved) -> None:
    for paths in ((b"dir", b"small a"), (b"dir/small b", b"x large"), (b"more", b"small more")):
        before = inodes(saved.target)
        assert over(saved, *paths).chunks > 0
        assert saved.pipelines.moved() == set()
        assert inodes(saved.target) == before


def test_times_that_lie_are_found_by_checksum_alone(saved: Saved) -> None:
    for name in ("x large", "dir/small b", "sparse large"):
        change_keeping_times(saved.target / name)
    target = os.fsencode(saved.target)
    saved.pipelines.restore(target, saved.id, if_not_empty=OVERWRITE)
    assert saved.pipelines.moved() == set()
    over(saved, checksum=True)
    wanted = {saved.chunk_of(path).id.hex() for path in (b"x large", b"dir/small b", b"sparse large")}
    assert saved.pipelines.moved() == wanted


def test_a_hole_that_was_filled_is_found_by_checksum(saved: Saved) -> None:
    change_keeping_times(saved.target / "dir/sparse", 100_000)
    change_keeping_times(saved.target / "sparse large", 100_000)
    over(saved, checksum=True)


@pytest.mark.parametrize("size", [3000, 300_000])
@pytest.mark.parametrize("checksum", [False, True])
def test_a_file_that_is_all_hole_is_kept(folder: Path, size: int, checksum: bool) -> None:
    saved = Saved(folder, [File(b"hole", Sparse(size)), File(b"x", b"x")])
    saved.restore()
    before = inodes(saved.target)
    result = over(saved, checksum=checksum)
    assert result.present is not None
    assert result.present.kept_files == 2
    os.utime(saved.target / "hole", ns=(1, 1))
    over(saved, checksum=checksum)
    assert inodes(saved.target) == before
    change_keeping_times(saved.target / "hole")
    if checksum:
        over(saved, checksum=True)
        assert inodes(saved.target) != before


def test_touched_files_are_given_their_time_again(saved: Saved) -> None:
    for path in saved.target.rglob("*"):
        if path.is_dir() or path.lstat().st_nlink == 1:
            os.utime(path, ns=(1, 1), follow_symlinks=False)
    before = inodes(saved.target)
    result = over(saved, checksum=True)
    assert saved.pipelines.moved() == set()
    assert result.present is not None
    assert result.present.copied_bytes == 0
    assert inodes(saved.target)[str(saved.target / "x large")] == before[str(saved.target / "x large")]
    assert inodes(saved.target)[str(saved.target / "dir/small b")] == before[str(saved.target / "dir/small b")]


def test_a_large_file_that_was_touched_is_recognised_by_its_segments(saved: Saved) -> None:
    os.utime(saved.target / "x large")
    before = (saved.target / "x large").stat().st_ino
    over(saved)
    assert saved.pipelines.moved() == set()
    assert (saved.target / "x large").stat().st_ino == before


def test_one_changed_file_brings_its_pack_and_rewrites_nothing_else(saved: Saved) -> None:
    (saved.target / "dir/small b").write_bytes(b"changed")
    before = inodes(saved.target)
    result = over(saved)
    assert saved.pipelines.moved() == {saved.chunk_of(b"dir/small b").id.hex()}
    files = result.totals.models.files + result.totals.other.files
    kept = result.totals.models.bytes + result.totals.other.bytes - 300
    assert result.present == PresentReport(files - 1, kept, 0)
    after = inodes(saved.target)
    assert {path for path in before if before[path] != after[path]} == {str(saved.target / "dir/small b")}


def test_metadata_alone_moves_no_chunk(saved: Saved) -> None:
    for name in ("x large", "dir/small b", "dir/zero", "dir/large", "dir/pipe"):
        path = saved.target / name
        path.chmod(0o600)
        if name != "dir/pipe":
            os.setxattr(path, "user.added", b"2")
        if IS_ROOT:
            os.chown(path, 12, 34)
    os.removexattr(saved.target / "dir/small b", "user.kept")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_metadata_of_a_file_with_several_names_is_given_to_a_new_file(saved: Saved) -> None:
    """Nobody can tell that the names are still all of it when it is given."""
    (saved.target / "small a").chmod(0o600)
    before = (saved.target / "small a").stat().st_ino
    over(saved)
    assert saved.pipelines.moved() == set()
    assert (saved.target / "small a").stat().st_ino != before


def test_what_has_no_content_is_made_without_its_pack(saved: Saved) -> None:
    (saved.target / "link").unlink()
    (saved.target / "dir/pipe").unlink()
    (saved.target / "dir/zero").write_text("not empty")
    (saved.target / "small link").unlink()
    (saved.target / "small link").symlink_to("elsewhere")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_further_names_are_made_again_without_content(saved: Saved) -> None:
    (saved.target / "small more").unlink()
    shutil.copy2(saved.target / "dir/large", saved.target / "copy")
    (saved.target / "copy").rename(saved.target / "more")
    over(saved)
    assert saved.pipelines.moved() == set()


def test_a_further_name_without_its_first_one_is_compared_itself(saved: Saved) -> None:
    path = saved.target / "small more"
    path.unlink()
    path.write_bytes(b"b" * 100)
    target, paths = os.fsencode(saved.target), (b"small link", b"small more")
    saved.pipelines.restore(target, saved.id, if_not_empty=OVERWRITE, paths=paths, checksum=True)
    assert path.read_bytes() == b"a" * 100


@pytest.mark.parametrize("name", ["dir/small b", "small a", "x large", "dir/large"])
@pytest.mark.parametrize("checksum", [False, True])
def test_a_file_with_a_name_outside_is_not_touched(saved: Saved, name: str, checksum: bool) -> None:
    (saved.outside / "shared").hardlink_to(saved.target / name)
    (saved.outside / "shared").chmod(0o604)
    os.setxattr(saved.outside / "shared", "user.mine", b"1")
    before = (saved.outside / "shared").read_bytes()
    over(saved, checksum=checksum)
    shared = saved.outside / "shared"
    assert stat.S_IMODE(shared.stat().st_mode) == 0o604
    assert os.getxattr(shared, "user.mine") == b"1"
    assert shared.read_bytes() == before
    assert shared.stat().st_nlink == 1


@pytest.mark.parametrize("name", ["small a", "dir/large"])
def test_a_file_that_has_a_name_outside_too_gives_way(saved: Saved, name: str) -> None:
    """Even if it is as it should be, and its other names are all there: what changes it later must not change both."""
    shared = saved.outside / "shared"
    shared.hardlink_to(saved.target / name)
    over(saved)
    assert shared.stat().st_nlink == 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("names", [(b"small a", b"small more"), (b"dir/large", b"more")], ids=["small", "large"])
def test_names_that_lead_outside_once_they_were_counted(
    saved: Saved, names: tuple[bytes, bytes], checksum: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file outside with the same content keeps its metadata, whoever links to it in the middle of a restore."""
    other = saved.outside / "same"
    shutil.copyfile(saved.workspace / os.fsdecode(names[0]), other)
    os.utime(other, ns=(0, (saved.workspace / os.fsdecode(names[0])).stat().st_mtime_ns))
    other.chmod(0o604)
    before = facts(os.fsencode(saved.outside))

    def counted_then_linked(*arguments: object) -> object:
        found = intact_groups(*arguments)  # type: ignore[arg-type]
        assert found
        for name in names:
            (saved.target / os.fsdecode(name)).unlink()
            os.link(other, saved.target / os.fsdecode(name))
        return found

    monkeypatch.setattr(run, "intact_groups", counted_then_linked)
    saved.pipelines.transfer = msgspec.structs.replace(saved.pipelines.transfer, workers=workers)
    saved.pipelines.restore(os.fsencode(saved.target), saved.id, if_not_empty=OVERWRITE, checksum=checksum)
    assert facts(os.fsencode(saved.outside)) == before
    assert saved.differences() == []
    assert other.stat().st_nlink == 1


def test_two_files_that_became_one_are_two_again(folder: Path) -> None:
    nodes: list[Node] = [File(name, Seeded(7000, seed=1)) for name in (b"a", b"b")]
    nodes += [File(name, b"same") for name in (b"c", b"d")]
    saved = Saved(folder, nodes)
    saved.restore()
    for one, other in (("a", "b"), ("c", "d")):
        (saved.target / other).unlink()
        (saved.target / other).hardlink_to(saved.target / one)
    over(saved)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_renamed_file_is_copied_from_its_old_name(saved: Saved, workers: int) -> None:
    (saved.target / "x large").rename(saved.target / "dir/renamed")
    pipelines = saved.pipelines
    pipelines.transfer = msgspec.structs.replace(pipelines.transfer, workers=workers)
    result = over(saved, mode=MIRROR, workers=workers)
    assert pipelines.moved() == set()
    assert result.present is not None
    assert result.present.copied_bytes == 9000


def test_a_missing_copy_is_copied_from_the_other(folder: Path) -> None:
    saved = Saved(folder, [File(b"a", Seeded(9000)), File(b"b", Seeded(9000))])
    saved.restore()
    (saved.target / "b").unlink()
    over(saved)
    assert saved.pipelines.moved() == set()


def test_what_is_copied_is_verified(folder: Path) -> None:
    saved = Saved(folder, [File(b"a", Seeded(9000)), File(b"b", Seeded(9000)), File(b"c", Seeded(8000))])
    saved.restore()
    (saved.target / "b").unlink()
    # Its time says that it is as it should be.
    change_keeping_times(saved.target / "a")
    # Of the right size alone.
    (saved.target / "c").write_bytes(bytes(8000))
    saved.pipelines.restore(os.fsencode(saved.target), saved.id, if_not_empty=OVERWRITE)
    assert (saved.target / "b").read_bytes() == (saved.workspace / "b").read_bytes()
    assert (saved.target / "c").read_bytes() == (saved.workspace / "c").read_bytes()
    assert len(saved.pipelines.moved()) == 2


SEVERAL = 2 * SEGMENT_SIZE + 5000


def test_a_file_of_several_segments(folder: Path) -> None:
    saved = Saved(folder, [File(b"model", Seeded(SEVERAL, compressible=True))])
    segments = [chunk.id.hex() for chunk in saved.chunks[saved.entries[b"model"].chunk + 1 :][:3]]
    path = saved.target / "model"
    saved.target.mkdir()
    shutil.copyfile(saved.workspace / "model", path)

    def change_in_the_middle() -> None:
        with path.open("r+b") as file:
            file.seek(SEGMENT_SIZE + 5)
            file.write(b"changed")

    change_in_the_middle()
    before = path.stat().st_ino
    result = over(saved, workers=2)
    assert saved.pipelines.moved() == {segments[1]}
    assert result.present == PresentReport(0, 0, SEVERAL - SEGMENT_SIZE)
    # It grew in the work folder.
    assert path.stat().st_ino != before

    os.truncate(path, SEGMENT_SIZE + 7 * MIB)
    over(saved)
    assert saved.pipelines.moved() == {segments[1], segments[2]}

    with path.open("ab") as file:
        file.write(b"more")
    over(saved)
    assert saved.pipelines.moved() == set()

    change_in_the_middle()
    path.rename(saved.target / "old name")
    over(saved, mode=MIRROR)
    assert saved.pipelines.moved() == {segments[1]}
