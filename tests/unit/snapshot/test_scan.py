"""The scan finds what is there, in archive order, and what the filters keep."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from agent.config.model import ScanConfig
from agent.errors import LocalIoError
from agent.pipeline.beneath import DIRECTORY_FLAGS, MAX_OPEN
from agent.pipeline.warnings import Warnings
from agent.pipeline.work_folder import WORK_FOLDER_PREFIX
from agent.repository.model import Entry, EntryType, order
from agent.repository.validate import ArchiveCheck
from agent.snapshot.filters import CACHE_TAG_SIGNATURE, Filter
from agent.snapshot.scan import MAX_PATH_BYTES, MAX_XATTR_BYTES, Scanner
from tests.support.children import needs_root, run_python, with_tmpfs
from tests.support.pipelines import memory_folder
from tests.support.trees import Directory, Fifo, File, HardLink, Node, Seeded, Sparse, Symlink, build, trees


def scan(
    root: Path | bytes,
    *,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude_caches: bool = False,
    one_file_system: bool = False,
    warnings: Warnings | None = None,
) -> list[Entry]:
    chosen = Filter(exclude, include, exclude_caches)
    return list(scanned(root, chosen, warnings or Warnings(), one_file_system))


def scanned(root: Path | bytes, chosen: Filter, warnings: Warnings, one_file_system: bool = False) -> Iterator[Entry]:
    root_fd = os.open(root, DIRECTORY_FLAGS)
    try:
        for entry in Scanner(root_fd, chosen, ScanConfig(), one_file_system, warnings).entries():
            assert isinstance(entry, Entry)
            yield entry
    finally:
        os.close(root_fd)


def paths(found: list[Entry]) -> list[bytes]:
    return [entry.path for entry in found]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(nodes=trees(xattrs=False))
def test_any_tree_is_found_whole_and_in_order(nodes: list[Node]) -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        root = os.path.join(os.fsencode(folder), b"root")
        build(root, nodes)
        found = scan(root)
        expected = {b""}
        for above, folders, files in os.walk(root):
            expected |= {os.path.relpath(os.path.join(above, name), root) for name in folders + files}
        assert set(paths(found)) == expected
        assert paths(found) == sorted(expected, key=order)
        check = ArchiveCheck()
        for entry in found:
            check.see(entry)
            facts = os.lstat(os.path.join(root, entry.path) if entry.path else root)
            assert (entry.mode, entry.uid, entry.gid) == (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid)
            assert entry.mtime_ns == facts.st_mtime_ns
            if entry.type is EntryType.FILE:
                assert entry.size == facts.st_size


def test_what_each_type_says(tmp_path: Path) -> None:
    root = tmp_path / "root"
    build(
        os.fsencode(root),
        [
            File(b"a.PT", b"x" * 9, xattrs=((b"user.b", b"2"), (b"user.a", b"1"))),
            HardLink(b"b", b"a.PT"),
            Symlink(b"c", b"../target"),
            Fifo(b"d"),
            File(b"e.txt", b""),
            File(b"f", Sparse(1 << 20, ((65536, 4096),))),
        ],
    )
    by_path = {entry.path: entry for entry in scan(root)}
    model = by_path[b"a.PT"]
    assert (model.model, model.size, model.data_size) == (True, 9, 9)
    assert model.xattrs == ((b"user.a", b"1"), (b"user.b", b"2"))
    link = by_path[b"b"]
    assert (link.type, link.link_target, link.hard_link_group) == (EntryType.HARD_LINK, b"a.PT", model.hard_link_group)
    assert link.xattrs == ()
    assert (by_path[b"c"].type, by_path[b"c"].link_target) == (EntryType.SYMLINK, b"../target")
    assert by_path[b"d"].type is EntryType.FIFO
    assert (by_path[b"e.txt"].model, by_path[b"e.txt"].hard_link_group) == (False, 0)
    assert (by_path[b"f"].sparse, by_path[b"f"].data_size) == (True, 4096)


def test_sockets_and_work_folders_are_left_out(tmp_path: Path) -> None:
    work = os.fsdecode(WORK_FOLDER_PREFIX)
    for folder in (work + "killed", "a/" + work + "x"):
        (tmp_path / folder).mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        assert paths(scan(tmp_path)) == [b"", b"a", b"a/" + WORK_FOLDER_PREFIX + b"x"]


def test_a_workspace_that_cannot_be_read(tmp_path: Path) -> None:
    root_fd = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(LocalIoError, match="workspace"):
            next(Scanner(root_fd, Filter(), ScanConfig(), False, Warnings()).entries())
    finally:
        os.close(root_fd)


TREE: list[Node] = [
    File(b"a/b/keep.txt", b""),
    File(b"a/b/other.bin", b""),
    File(b"a/other.bin", b""),
    Directory(b"empty/deep"),
    File(b"models/x/y.bin", b""),
    File(b"z.txt", b""),
]


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        (["*.txt"], [b"", b"a", b"a/b", b"a/b/keep.txt", b"z.txt"]),
        (["models/"], [b"", b"models", b"models/x", b"models/x/y.bin"]),
        (["/a/other.bin"], [b"", b"a", b"a/other.bin"]),
        (["deep"], [b"", b"empty", b"empty/deep"]),
        (["nothing"], [b""]),
        (["*.txt", "!z.txt"], [b"", b"a", b"a/b", b"a/b/keep.txt"]),
    ],
)
def test_include_keeps_the_folders_above_only_when_needed(
    tmp_path: Path, include: list[str], expected: list[bytes]
) -> None:
    build(os.fsencode(tmp_path / "root"), TREE)
    assert paths(scan(tmp_path / "root", include=include)) == expected


def test_exclude_leaves_out_all_below_and_beats_include(tmp_path: Path) -> None:
    build(os.fsencode(tmp_path / "root"), TREE)
    found = scan(tmp_path / "root", include=["*.txt"], exclude=["/a/b", "!/a/b/keep.txt"])
    assert paths(found) == [b"", b"z.txt"]
    assert b"models" not in paths(scan(tmp_path / "root", exclude=["models/"]))


@pytest.mark.parametrize("kind", ["include", "exclude"])
def test_the_first_kept_name_of_a_hard_linked_file_is_the_file(tmp_path: Path, kind: str) -> None:
    build(os.fsencode(tmp_path / "root"), [File(b"a", b"x"), HardLink(b"b", b"a"), HardLink(b"c", b"a")])
    found = scan(tmp_path / "root", include=["b", "c"]) if kind == "include" else scan(tmp_path / "root", exclude=["a"])
    assert [(entry.path, entry.type) for entry in found[1:]] == [(b"b", EntryType.FILE), (b"c", EntryType.HARD_LINK)]
    assert found[2].link_target == b"b"


def test_tagged_caches_keep_their_tag_alone(tmp_path: Path) -> None:
    build(
        os.fsencode(tmp_path / "root"),
        [
            File(b"cache/CACHEDIR.TAG", CACHE_TAG_SIGNATURE + b"\n# made by a test"),
            File(b"cache/deep/data", b"x"),
            File(b"fake/CACHEDIR.TAG", b"Signature: none"),
            File(b"fake/data", b"x"),
            Symlink(b"link/CACHEDIR.TAG", b"../cache/CACHEDIR.TAG"),
            File(b"link/data", b"x"),
            File(b"p/__pycache__/m.pyc", b"x"),
        ],
    )
    kept = paths(scan(tmp_path / "root", exclude_caches=True))
    assert b"cache/CACHEDIR.TAG" in kept
    assert {b"fake/data", b"link/data", b"p"} <= set(kept)
    assert not {b"cache/deep", b"cache/deep/data", b"p/__pycache__"} & set(kept)
    assert {b"cache/deep/data", b"p/__pycache__/m.pyc"} <= set(paths(scan(tmp_path / "root")))


def test_attributes_that_are_too_large_are_a_warning() -> None:
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        path = Path(folder) / "file"
        path.write_text("x")
        try:
            for number in range(MAX_XATTR_BYTES // 60_000 + 1):
                os.setxattr(path, f"user.{number}", bytes(60_000))
        except OSError:
            pytest.skip("the file system has no room for such attributes")
        warnings = Warnings()
        assert scan(Path(folder), warnings=warnings)[1].xattrs == ()
        assert warnings.count == 1


ONE_FILE_SYSTEM = """
import sys
from pathlib import Path
from tests.unit.snapshot.test_scan import paths, scan
root = Path(sys.argv[1])
(root / "mount/file").write_text("x")
print(paths(scan(root)), paths(scan(root, one_file_system=True)))
"""


@needs_root
def test_one_file_system_keeps_the_mount_point_and_nothing_below(tmp_path: Path) -> None:
    mount = tmp_path / "root/mount"
    mount.mkdir(parents=True)
    said = run_python(ONE_FILE_SYSTEM, tmp_path / "root", under=with_tmpfs(mount))
    assert said.decode().split("] ") == ["[b'', b'mount', b'mount/file'", "[b'', b'mount']\n"]


def test_a_deep_tree_is_scanned_without_recursion(tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 100
    root = Path(tempfile.mkdtemp(dir=memory_folder()))
    try:
        build(os.fsencode(root), [File(b"/".join([b"d"] * depth) + b"/f", Seeded(10))])
        assert len(scan(root)) == depth + 2
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)


SECRET = b"secret"


class Swapped:
    """A workspace with a folder, and one outside with the same paths, of which nothing may be told.

    Args:
        names: what the folder holds, each a folder with a link.
        above: where the folder is.
    """

    def __init__(self, tmp_path: Path, names: Sequence[bytes], above: bytes = b"") -> None:
        self.root, self.outside = tmp_path / "root", tmp_path / "outside"
        self.folder = self.root / os.fsdecode(above) / "folder"
        for path, says in (self.folder, b"here"), (self.outside, SECRET):
            nodes: list[Node] = [Directory(name, xattrs=((b"user.is", says),)) for name in names]
            nodes += [Symlink(name + b"/link", says) for name in names]
            nodes += [Directory(name + b"/" + says) for name in names]
            build(os.fsencode(path), nodes)
        (tmp_path / "root/last").mkdir()

    def swap(self) -> None:
        """Puts the link there."""
        self.folder.rename(self.outside.parent / "away")
        self.folder.symlink_to(self.outside)

    def scan(self, moment: bytes) -> tuple[list[Entry], Warnings]:
        """Scans, and swaps once a path was found."""
        warnings, found = Warnings(), []
        for entry in scanned(self.root, Filter(), warnings):
            found.append(entry)
            if entry.path == moment:
                self.swap()
        assert SECRET not in repr(found).encode()
        return found, warnings


def test_a_folder_that_becomes_a_link_before_it_is_listed_is_a_warning(tmp_path: Path) -> None:
    found, warnings = Swapped(tmp_path, [b"a"]).scan(b"folder")
    assert paths(found) == [b"", b"folder", b"last"]
    assert [warning.paths for warning in warnings.take()] == [(b"folder",)]


def test_a_folder_that_becomes_a_link_is_seen_to_its_end(tmp_path: Path) -> None:
    found, warnings = Swapped(tmp_path, [b"a", b"b"]).scan(b"folder/a")
    below = [b"folder/%s%s" % (name, rest) for name in (b"a", b"b") for rest in (b"", b"/here", b"/link")]
    assert paths(found) == [b"", b"folder", *below, b"last"]
    assert {entry.link_target for entry in found if entry.type is EntryType.SYMLINK} == {b"here"}
    assert [entry.xattrs for entry in found].count(((b"user.is", b"here"),)) == 2
    assert warnings.count == 0


def test_a_folder_that_became_a_link_is_not_found_again_from_far_below(tmp_path: Path) -> None:
    above = b"/".join([b"d"] * MAX_OPEN)
    deep = b"%s/folder/%s" % (above, above)
    found, warnings = Swapped(tmp_path, [above, b"e", b"f"], above).scan(deep)
    assert paths(found)[-3:] == [deep + b"/here", deep + b"/link", b"last"]
    assert [warning.paths for warning in warnings.take()] == [(above + b"/folder/e", above + b"/folder/f")]


def test_what_has_a_path_that_the_kernel_does_not_take_is_a_warning() -> None:
    folder = Path(tempfile.mkdtemp(dir=memory_folder()))
    fds = [os.open(folder, DIRECTORY_FLAGS)]
    name = b"n" * 255
    try:
        for _ in range(MAX_PATH_BYTES // 256 + 2):
            os.mkdir(name, dir_fd=fds[-1])
            fds.append(os.open(name, DIRECTORY_FLAGS, dir_fd=fds[-1]))
        warnings = Warnings()
        found = scan(folder, warnings=warnings)
        assert [len(entry.path) for entry in found[1:]] == list(range(255, MAX_PATH_BYTES + 1, 256))
        (warning,) = warnings.take()
        assert (warning.reason, warning.count) == ("FILE_UNREADABLE", 1)
        assert len(warning.paths[0]) > MAX_PATH_BYTES
    finally:
        for fd in fds:
            os.close(fd)
        subprocess.run(["rm", "-rf", str(folder)], check=True)
