"""Where a restore goes: into targets that are not empty, and of single paths."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import (
    InvalidRequestError,
    LocalIoError,
    NotADirectoryPathError,
    TargetNotEmptyError,
)
from agent.restore.request import IfNotEmpty
from tests.support.pipelines import leftovers, memory_folder
from tests.support.saved import Saved
from tests.support.trees import Directory, File, HardLink, Node, Seeded, Symlink, build, facts

OVERWRITE, MIRROR = IfNotEmpty.OVERWRITE, IfNotEmpty.MIRROR

TREE: list[Node] = [
    Directory(b"", mode=0o750),
    Directory(b"dir", mode=0o700),
    File(b"dir/file", b"content"),
    File(b"large", Seeded(7000)),
    HardLink(b"more", b"large"),
    Symlink(b"link", b"dir/file"),
    Directory(b"empty"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory that others may enter, as some restores run as another user."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-modes-", dir=memory_folder()))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def saved(folder: Path) -> Saved:
    return Saved(folder, TREE)


def test_a_missing_target_is_made_with_the_folders_above_it(saved: Saved) -> None:
    saved.target = saved.folder / "a/b/target"
    saved.restore()
    assert saved.differences() == []


def test_an_empty_target_gets_the_metadata_of_the_workspace(saved: Saved) -> None:
    saved.target.mkdir(mode=0o777)
    saved.restore()
    assert saved.differences() == []
    assert saved.target.stat().st_mtime_ns == saved.workspace.stat().st_mtime_ns


def test_a_target_that_is_not_empty_is_refused_untouched(saved: Saved) -> None:
    build(os.fsencode(saved.target), [File(b"mine", b"x")])
    before = facts(os.fsencode(saved.target))
    with pytest.raises(TargetNotEmptyError, match="it holds 'mine'"):
        saved.restore()
    assert facts(os.fsencode(saved.target)) == before


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_a_target_that_is_no_directory_is_refused(saved: Saved, kind: str) -> None:
    if kind == "file":
        saved.target.write_text("x")
    else:
        saved.target.symlink_to(saved.outside if kind == "link" else "nowhere")
    with pytest.raises((NotADirectoryPathError, LocalIoError)):
        saved.restore(OVERWRITE)
    assert sorted(os.listdir(saved.outside)) == ["file"]


def test_what_a_fresh_file_system_and_a_killed_restore_left_does_not_count(saved: Saved) -> None:
    build(os.fsencode(saved.target), [Directory(b"lost+found", mode=0o700)])
    build(os.fsencode(saved.target / ".gpusnap-restore-killed"), [File(b"large-0", Seeded(100)), File(b"d/e", b"x")])
    saved.restore()
    assert saved.differences() == ["lost+found: added"]


def _link_both_names(target: Path, _outside: Path) -> None:
    (target / "large").write_text("old")
    os.link(target / "large", target / "more")


def _close_directory(target: Path, _outside: Path) -> None:
    build(os.fsencode(target), [Directory(b"dir", mode=0), File(b"dir/file", b"old")])


def _give_attributes(target: Path, _outside: Path) -> None:
    build(os.fsencode(target), [Directory(b"dir", xattrs=((b"user.old", b"1"),))])


CONFLICTS: dict[str, Callable[[Path, Path], object]] = {
    "another file": lambda target, _: (target / "large").write_text("old"),
    "file over directory": lambda target, _: (target / "dir").write_text("old"),
    "empty directory over file": lambda target, _: (target / "large").mkdir(),
    "empty directory over link": lambda target, _: (target / "link").mkdir(),
    "link over directory to outside": lambda target, outside: (target / "dir").symlink_to(outside),
    "link over file to outside": lambda target, outside: (target / "large").symlink_to(outside / "file"),
    "link over hard link": lambda target, outside: (target / "more").symlink_to(outside / "file"),
    "link over link": lambda target, outside: (target / "link").symlink_to(outside / "file"),
    "hard link to outside over file": lambda target, outside: (target / "large").hardlink_to(outside / "file"),
    "dangling link over file": lambda target, _: (target / "large").symlink_to("nowhere"),
    "pipe over file": lambda target, _: os.mkfifo(target / "large"),
    "the names are linked already": _link_both_names,
    "file in a closed directory": _close_directory,
    "attributes of a directory": _give_attributes,
}


@pytest.mark.parametrize("mode", [OVERWRITE, MIRROR])
@pytest.mark.parametrize("conflict", CONFLICTS)
def test_what_is_in_the_way_is_replaced(saved: Saved, conflict: str, mode: IfNotEmpty) -> None:
    saved.target.mkdir()
    CONFLICTS[conflict](saved.target, saved.outside)
    links = saved.outside.joinpath("file").stat().st_nlink
    saved.pipelines.restore(os.fsencode(saved.target), if_not_empty=mode)
    assert saved.pipelines.warned() == {}
    assert saved.differences() == []
    assert leftovers(os.fsencode(saved.target)) == []
    assert (saved.outside / "file").read_text() == "outside"
    assert saved.outside.joinpath("file").stat().st_nlink == (1 if links > 1 else links)
    assert os.listdir(saved.outside) == ["file"]


def full_directories(saved: Saved) -> None:
    build(
        os.fsencode(saved.target),
        [
            File(b"large/mine", b"x"),
            File(b"link/mine", b"x"),
            File(b"dir/mine", b"x"),
            Symlink(b"extra link", os.fsencode(saved.outside)),
            File(b"extra/deep/er/file", b"x"),
            Symlink(b"extra/deep/link", os.fsencode(saved.outside)),
        ],
    )


def test_overwrite_keeps_what_the_snapshot_does_not_have(saved: Saved) -> None:
    full_directories(saved)
    saved.restore(OVERWRITE)
    # A directory with something in it stays, and with it the further name of the file that belongs there is missing.
    assert saved.pipelines.warned() == {"NOT_REPLACED": {b"large", b"link"}, "LINK_NOT_RESTORED": {b"more"}}
    assert (saved.target / "large/mine").read_text() == "x"
    assert (saved.target / "dir/mine").read_text() == "x"
    assert (saved.target / "dir/file").read_text() == "content"
    assert (saved.target / "extra/deep/er/file").read_text() == "x"
    assert not (saved.target / "more").exists()


def test_mirror_removes_what_the_snapshot_does_not_have(saved: Saved) -> None:
    full_directories(saved)
    (saved.target / "lost+found").mkdir()
    saved.restore(MIRROR)
    assert saved.pipelines.warned() == {}
    assert saved.differences() == ["lost+found: added"]


def test_single_paths_with_all_below_them(saved: Saved) -> None:
    saved.restore(IfNotEmpty.FAIL, b"dir", b"./large/")
    found = {path.decode() for path in paths_below(saved.target)}
    assert found == {"dir", "dir/file", "large"}
    assert (saved.target / "dir").stat().st_mode & 0o777 == 0o700
    assert (saved.target / "large").read_bytes() == (saved.workspace / "large").read_bytes()


def test_a_single_file_below_a_folder_that_is_not_chosen(saved: Saved) -> None:
    saved.restore(IfNotEmpty.FAIL, b"dir/file")
    assert {path.decode() for path in paths_below(saved.target)} == {"dir", "dir/file"}
    assert (saved.target / "dir").stat().st_mtime_ns == (saved.workspace / "dir").stat().st_mtime_ns


def test_a_folder_above_a_chosen_path_that_was_there_keeps_its_mode(saved: Saved) -> None:
    build(os.fsencode(saved.target), [Directory(b"", mode=0o711), Directory(b"dir", mode=0o511)])
    saved.restore(OVERWRITE, b"dir/file")
    assert stat.S_IMODE((saved.target / "dir").stat().st_mode) == 0o511
    assert stat.S_IMODE(saved.target.stat().st_mode) == 0o711


def test_a_further_name_whose_first_name_is_not_chosen(saved: Saved) -> None:
    saved.restore(IfNotEmpty.FAIL, b"more")
    assert {path.decode() for path in paths_below(saved.target)} == {"more"}
    assert (saved.target / "more").read_bytes() == (saved.workspace / "large").read_bytes()
    assert (saved.target / "more").stat().st_nlink == 1


def test_several_further_names_of_small_and_special_files(folder: Path) -> None:
    nodes: list[Node] = [File(b"a/small", b"x" * 100), Symlink(b"a/link", b"target"), File(b"a/zero", b"")]
    nodes += [HardLink(name + suffix, b"a/" + name) for name in (b"small", b"link", b"zero") for suffix in (b"1", b"2")]
    saved = Saved(folder, nodes)
    saved.restore(IfNotEmpty.FAIL, b"small1", b"small2", b"link1", b"link2", b"zero1")
    assert set(paths_below(saved.target)) == {b"small1", b"small2", b"link1", b"link2", b"zero1"}
    assert (saved.target / "small1").samefile(saved.target / "small2")
    assert (saved.target / "small1").read_bytes() == b"x" * 100
    assert os.readlink(saved.target / "link2") == "target"
    assert os.lstat(saved.target / "link1").st_nlink == 2


def test_mirror_of_a_single_path_leaves_the_rest_alone(saved: Saved) -> None:
    full_directories(saved)
    saved.restore(MIRROR, b"dir")
    assert not (saved.target / "dir/mine").exists()
    assert (saved.target / "extra/deep/er/file").exists()
    assert (saved.target / "large/mine").exists()


@pytest.mark.parametrize("path", [b"missing", b"dir/missing", b"dir/file/below", b"../x", b"/dir", b"a\0b", b"dir/.."])
def test_a_path_that_cannot_be_chosen_is_an_error_and_makes_nothing(saved: Saved, path: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        saved.restore(IfNotEmpty.FAIL, b"dir", path)
    assert not saved.target.exists()


def test_a_default_acl_of_the_target_is_not_handed_on(saved: Saved) -> None:
    acl = bytes.fromhex("0200000001000700ffffffff02000700e803000004000500ffffffff10000700ffffffff20000500ffffffff")
    saved.target.mkdir()
    os.setxattr(saved.target, "system.posix_acl_default", acl)
    saved.restore()
    assert saved.differences() == []


def paths_below(folder: Path) -> Iterator[bytes]:
    root = os.fsencode(folder)
    for above, folders, files in os.walk(root):
        for name in folders + files:
            yield os.path.relpath(os.path.join(above, name), root)
