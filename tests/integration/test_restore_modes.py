"""Where a restore goes: into targets that are not empty, of single paths, and without privilege."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import (
    InvalidRequestError,
    LocalIoError,
    LocalPermissionError,
    NotADirectoryPathError,
    TargetNotEmptyError,
)
from agent.events import ChunkFinished, FileReady, Progress, ScanTotals, WarningRaised
from agent.restore.request import IfNotEmpty, RestoreRequest
from tests.support.pipelines import Pipelines, leftovers, memory_folder
from tests.support.trees import Device, Directory, File, HardLink, Node, Seeded, Symlink, build, compare, facts

IS_ROOT = os.geteuid() == 0
NOBODY = 65534

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
LARGE = 5000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory that others may enter, as some restores run as another user."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-modes-", dir=memory_folder()))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class Saved:
    """A saved workspace and a target to restore it into."""

    def __init__(self, folder: Path, nodes: list[Node]) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        self.target = folder / "target"
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "file").write_text("outside")
        build(os.fsencode(self.workspace), nodes)
        self.pipelines = Pipelines(folder)
        self.pipelines.snapshot(os.fsencode(self.workspace), large_file_size=LARGE)

    def restore(self, if_not_empty: IfNotEmpty = IfNotEmpty.FAIL, *paths: bytes) -> None:
        before = facts(os.fsencode(self.outside))
        try:
            self.pipelines.restore(os.fsencode(self.target), if_not_empty=if_not_empty, paths=paths)
        finally:
            assert facts(os.fsencode(self.outside)) == before
            assert leftovers(os.fsencode(self.target)) == []

    def differences(self) -> list[str]:
        return compare(os.fsencode(self.workspace), os.fsencode(self.target))


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


AS_NOBODY = """
import sys, threading
import msgspec
from agent.errors import GpusnapError
from agent.restore.request import RestoreRequest
from agent.restore.run import run
request = msgspec.json.decode(sys.argv[1], type=RestoreRequest)
def emit(event):
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\\n")
run(request, emit, threading.Event())
"""


def restore_as_nobody(saved: Saved, **fields: object) -> Pipelines:
    """Restores in a process without privilege and returns pipelines with what it emitted."""
    staging = saved.folder / "staging-nobody"
    staging.mkdir()
    os.chown(staging, NOBODY, NOBODY)
    for above, folders, files in os.walk(saved.pipelines.store_folder):
        for name in [above, *(os.path.join(above, name) for name in folders + files)]:
            os.chown(name, NOBODY, NOBODY)
    request = RestoreRequest(
        operation="restore-nobody",
        snapshot="latest",
        target=os.fsencode(saved.target),
        staging_dir=str(staging),
        storage=saved.pipelines.storage,
        transfer=saved.pipelines.transfer,
    )
    request = msgspec.structs.replace(request, **fields)
    privilege = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*privilege, sys.executable, "-c", AS_NOBODY, msgspec.json.encode(request).decode()],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/proto", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    decoder = msgspec.json.Decoder(ScanTotals | ChunkFinished | Progress | FileReady | WarningRaised)
    saved.pipelines.events = [decoder.decode(line) for line in done.stdout.splitlines()]
    return saved.pipelines


needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can give up privilege")


@needs_root
def test_what_needs_privilege_is_a_warning_that_names_the_files(folder: Path) -> None:
    nobody = (NOBODY, NOBODY)
    saved = Saved(
        folder,
        [
            Directory(b"", owner=nobody),
            Directory(b"root's", owner=(0, 0), mode=0o2750),
            File(b"root's/set id", b"x", owner=(0, 0), mode=0o6755),
            File(b"mine", b"x", owner=nobody, mode=0o4755),
            File(b"read only", Seeded(7000), owner=nobody, mode=0o400, xattrs=((b"user.a", b"b"),)),
            Directory(b"closed", owner=nobody, mode=0o500),
            File(b"closed/file", b"x", owner=nobody),
            Symlink(b"link", b"mine", owner=(0, 0)),
            Device(b"null", owner=nobody),
            HardLink(b"null too", b"null"),
            File(b"trusted", b"x", owner=nobody, xattrs=((b"trusted.a", b"b"),)),
        ],
    )
    saved.target.mkdir()
    os.chown(saved.target, NOBODY, NOBODY)
    warned = restore_as_nobody(saved).warned()
    assert warned == {
        "OWNER_NOT_RESTORED": {b"root's", b"root's/set id", b"link"},
        "DEVICE_NOT_RESTORED": {b"null"},
        "LINK_NOT_RESTORED": {b"null too"},
        "XATTR_NOT_RESTORED": {b"trusted"},
    }
    assert stat.S_IMODE((saved.target / "root's/set id").stat().st_mode) == 0o755
    assert stat.S_IMODE((saved.target / "root's").stat().st_mode) == 0o750
    assert stat.S_IMODE((saved.target / "mine").stat().st_mode) == 0o4755
    differences = compare(os.fsencode(saved.workspace), os.fsencode(saved.target), owners=False)
    assert sorted(line.split(":")[0] for line in differences) == [
        "null", "null too", "root's", "root's/set id", "trusted",
    ]  # fmt: skip
    assert leftovers(os.fsencode(saved.target)) == []


@needs_root
def test_a_target_of_another_user_that_may_be_written(folder: Path) -> None:
    saved = Saved(folder, [Directory(b"", owner=(0, 0)), File(b"file", b"x", owner=(NOBODY, NOBODY))])
    saved.target.mkdir()
    saved.target.chmod(0o777)
    warned = restore_as_nobody(saved).warned()
    assert warned["METADATA_NOT_RESTORED"] == {b""}
    assert (saved.target / "file").read_text() == "x"


@needs_root
def test_a_folder_without_access_is_opened_for_its_owner(folder: Path) -> None:
    nobody = (NOBODY, NOBODY)
    nodes: list[Node] = [Directory(b"", owner=nobody), Directory(b"d", owner=nobody), File(b"d/f", b"x", owner=nobody)]
    saved = Saved(folder, nodes)
    build(os.fsencode(saved.target), [Directory(b"", owner=nobody), Directory(b"d", owner=nobody, mode=0)])
    restore_as_nobody(saved, if_not_empty=OVERWRITE)
    assert saved.pipelines.warned() == {}
    assert saved.differences() == []


@needs_root
def test_a_target_that_may_not_be_written_is_refused(folder: Path) -> None:
    saved = Saved(folder, TREE)
    saved.target.mkdir()
    with pytest.raises(AssertionError, match=LocalPermissionError.__name__):
        restore_as_nobody(saved)
    assert os.listdir(saved.target) == []
