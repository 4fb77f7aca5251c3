"""The scan finds what is there, in archive order, and what the filters keep."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from agent.config.model import ScanConfig
from agent.errors import LocalPermissionError, PathNotFoundError
from agent.pipeline.warnings import Warnings
from agent.pipeline.work_folder import WORK_FOLDER_PREFIX
from agent.repository.model import Entry, EntryType, order
from agent.repository.validate import ArchiveCheck
from agent.snapshot.filters import CACHE_TAG_SIGNATURE, Filter
from agent.snapshot.scan import MAX_XATTR_BYTES, Scanner
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
    scanner = Scanner(os.fsencode(root), chosen, ScanConfig(), one_file_system, warnings or Warnings())
    found = []
    for entry in scanner.entries():
        assert isinstance(entry, Entry)
        found.append(entry)
    return found


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
    with pytest.raises(PathNotFoundError, match="missing"):
        scan(tmp_path / "missing")
    (tmp_path / "file").write_text("x")
    with pytest.raises((PathNotFoundError, LocalPermissionError)):
        scan(tmp_path / "file")


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
