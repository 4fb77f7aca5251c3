"""What is seen ahead of a scan is what a scan would see, and nothing depends on it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config.model import ScanConfig
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.repository.model import order
from agent.snapshot import lookout
from agent.snapshot.look_ahead import MODULE, LookAhead, looking_ahead
from agent.snapshot.lookout import look
from agent.snapshot.request import SnapshotRequest
from agent.snapshot.seen import Facts, Orders, Seen
from tests.support.children import needs_root, run_python, with_tmpfs
from tests.support.pipelines import Pipelines
from tests.support.processes import is_running, processes_running, wait_until
from tests.support.trees import Directory, File, HardLink, Node, Seeded, Symlink, build

TREE: list[Node] = [
    Directory(b"empty"),
    File(b"a/b/c/deep", b"x"),
    File(b"a/b.txt", b"before a/b/c, as components are compared"),
    File(b"z/cache/CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55"),
    File(b"z/cache/big", Seeded(5000)),
    *(File(b"many/%04d" % number, b"x") for number in range(1500)),
    HardLink(b"z/linked", b"a/b.txt"),
    Symlink(b"z/link", b"../a"),
]
EVERYTHING = Orders((), (), False, False)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    build(os.fsencode(root), TREE)
    return root


@pytest.fixture
def root_fd(workspace: Path) -> Iterator[int]:
    fd = os.open(workspace, DIRECTORY_FLAGS)
    yield fd
    os.close(fd)


@pytest.fixture
def ahead(workspace: Path) -> Iterator[LookAhead]:
    made = LookAhead(os.open(workspace, DIRECTORY_FLAGS), EVERYTHING)
    yield made
    made.close()


def facts(path: bytes) -> Facts:
    found = os.lstat(path)
    return Facts(*(getattr(found, name) for name in Facts.__struct_fields__))


def directories(root: Path) -> list[bytes]:
    """The paths of all directories, in archive order."""
    below = [os.path.relpath(os.fsencode(path), os.fsencode(root)) for path, _, _ in os.walk(root)]
    return sorted((b"" if path == b"." else path for path in below), key=order)


def paths(seen: Iterator[Seen]) -> list[bytes]:
    return [directory.path for directory in seen]


def test_every_directory_is_seen_as_it_is(ahead: LookAhead, workspace: Path) -> None:
    for path in directories(workspace):
        place = os.path.join(os.fsencode(workspace), path)
        seen = ahead.directory(path)
        assert seen is not None
        assert seen.path == path
        assert seen.listing.names == sorted(os.listdir(place), reverse=True)
        assert seen.facts == [facts(os.path.join(place, name)) for name in seen.listing.names]
    assert ahead.directory(b"zz") is None


def test_what_was_not_seen_is_nothing_and_the_rest_is_told(ahead: LookAhead) -> None:
    told = {path: ahead.directory(path) is not None for path in (b"a/aa", b"a/b", b"many", b"mine", b"z/cache")}
    assert told == {b"a/aa": False, b"a/b": True, b"many": True, b"mine": False, b"z/cache": True}


def test_nothing_is_told_by_one_that_died(ahead: LookAhead) -> None:
    for pid in processes_running(MODULE):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not is_running(pid), "the process ends")  # type: ignore[misc]
    # What it said before may be told.
    assert ahead.directory(b"zz") is None


def test_nothing_is_told_after_an_abort(ahead: LookAhead) -> None:
    assert ahead.directory(b"") is not None
    ahead.abort()
    assert processes_running(MODULE) == set()
    assert ahead.directory(b"a") is None


def test_what_a_filter_leaves_out_is_not_gone_through(root_fd: int) -> None:
    assert paths(look(root_fd, Orders(("many", "/a/b/"), (), False, False))) == [b"", b"a", b"empty", b"z", b"z/cache"]
    seen = {directory.path: directory for directory in look(root_fd, Orders((), ("*.txt",), True, False))}
    assert list(seen) == [b"", b"a", b"a/b", b"a/b/c", b"empty", b"many", b"z", b"z/cache"]
    assert seen[b"z/cache"].listing.names == [b"CACHEDIR.TAG"]
    assert seen[b"many"].facts == [None] * 1500
    assert [known is None for known in seen[b"a"].facts] == [False, False]


def test_a_directory_with_very_many_names_is_left_to_the_scan(
    root_fd: int, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "MOST_NAMES", 2)
    expected = [path for path in directories(workspace) if len(os.listdir(workspace / os.fsdecode(path))) <= 2]
    assert paths(look(root_fd, EVERYTHING)) == expected
    assert b"z/cache" in expected
    assert b"" not in expected


def test_a_directory_that_vanishes_is_left_out(root_fd: int, workspace: Path) -> None:
    seen = look(root_fd, EVERYTHING)
    assert next(seen).path == b""
    shutil.rmtree(workspace / "a")
    assert paths(seen) == [b"empty", b"many", b"z", b"z/cache"]


ONE_FILE_SYSTEM = """
import os, sys
from agent.snapshot.lookout import look
from agent.snapshot.seen import Orders
os.mkdir(sys.argv[1] + "/mount/below")
root_fd = os.open(sys.argv[1], os.O_RDONLY)
for stays in (False, True):
    print([seen.path for seen in look(root_fd, Orders((), (), False, stays))])
"""


@needs_root
def test_other_file_systems_are_not_gone_through(tmp_path: Path) -> None:
    mount = tmp_path / "root/mount"
    mount.mkdir(parents=True)
    said = run_python(ONE_FILE_SYSTEM, tmp_path / "root", under=with_tmpfs(mount))
    assert said.decode().splitlines() == ["[b'', b'mount', b'mount/below']", "[b'']"]


def request(pipelines: Pipelines, workspace: Path, *, full: bool = False, workers: int = 0) -> SnapshotRequest:
    return SnapshotRequest(
        workspace=os.fsencode(workspace),
        staging_dir="/nowhere",
        storage=pipelines.storage,
        transfer=type(pipelines.transfer)(workers=workers),
        scan=ScanConfig(),
        full=full,
    )


def test_nobody_looks_ahead_in_vain(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines = Pipelines(tmp_path)
    with looking_ahead(request(pipelines, workspace)) as ahead:
        assert ahead is not None
    assert processes_running(MODULE) == set()
    for vain in (
        request(pipelines, workspace, full=True),
        request(pipelines, workspace, workers=1),
        request(pipelines, tmp_path / "gone"),
    ):
        with looking_ahead(vain) as ahead:
            assert ahead is None
    monkeypatch.setattr("agent.snapshot.look_ahead.usable_cores", lambda: 1)
    with looking_ahead(request(pipelines, workspace)) as ahead:
        assert ahead is None
