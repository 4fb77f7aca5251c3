"""A second snapshot reads what has changed and nothing else, and is the same as one that reads everything."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config.model import MIB, ScanConfig
from agent.events import ChunkFinished, ChunkKind, OperationResult, Stage
from agent.repository import keys
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Entry, EntryType
from agent.snapshot import parent, plan
from tests.support.daemon import Daemon
from tests.support.gpusnap import Gpusnap
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.processes import wait_until
from tests.support.trees import File, HardLink, Node, Seeded, Sparse, Symlink, append, build, compare, trees

LARGE = 4000


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-incremental-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=[False, True], ids=["alone", "with-lookout"], autouse=True)
def looks_ahead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every test run with a lookout and without one."""
    monkeypatch.setattr(Pipelines, "looks_ahead", request.param)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes files that were just written as old ones."""
    monkeypatch.setattr(parent, "RACY_NS", -(10**18))


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of a few entries."""
    monkeypatch.setattr(plan, "MEAN_PACK_SIZE", 20_000)


class Workspace:
    """A workspace with its snapshots."""

    def __init__(self, folder: Path, nodes: list[Node], large: int = LARGE) -> None:
        self.path = folder / "workspace"
        build(os.fsencode(self.path), nodes)
        self.pipelines = Pipelines(folder)
        self._folder = folder
        self._large = large
        self._targets = 0

    def save(self, full: bool = False) -> OperationResult:
        """Makes a snapshot."""
        return self.pipelines.snapshot(os.fsencode(self.path), large_file_size=self._large, full=full)

    def moved(self) -> list[ChunkKind]:
        """Returns the chunks that the last snapshot uploaded."""
        finished = [event for event in self.pipelines.events if isinstance(event, ChunkFinished)]
        return sorted((event.kind for event in finished if not event.reused), key=lambda kind: kind.value)

    def check(self, result: OperationResult) -> None:
        """Makes sure that a snapshot restores to what the workspace is now, and that it is like one of all files."""
        target = os.fsencode(self._folder / f"target{self._targets}")
        self._targets += 1
        self.pipelines.restore(target, result.snapshot_id)
        assert compare(os.fsencode(self.path), target) == []
        full = self.save(full=True)
        assert full.unchanged_files == 0
        assert self.pipelines.chunks(result.snapshot_id) == self.pipelines.chunks(full.snapshot_id)
        assert self.entries(result) == self.entries(full)
        assert result.totals == full.totals

    def entries(self, result: OperationResult) -> list[Entry]:
        """Returns the entries of a snapshot without what only comparisons use."""
        unsaid: dict[str, int] = {"ctime_ns": 0, "inode": 0, "device": 0}
        return [
            msgspec.structs.replace(entry, hard_link_group=min(entry.hard_link_group, 1), **unsaid)
            for entry in self.pipelines.entries(result.snapshot_id).values()
        ]


VARIED: list[Node] = [
    File(b"a/model.safetensors", Seeded(30_000)),
    File(b"a/sparse", Sparse(1 << 20, ((8192, 20_000),))),
    *(
        File(b"b/%02d" % number, Seeded(1000, seed=number), xattrs=((b"user.n", b"%d" % number),))
        for number in range(80)
    ),
    HardLink(b"c/linked", b"b/07"),
    HardLink(b"c/large", b"a/model.safetensors"),
    Symlink(b"d/link", b"../b/01"),
    File(b"d/empty", b""),
]


@pytest.mark.usefixtures("quiet", "small_packs")
def test_an_unchanged_workspace_is_not_read(folder: Path) -> None:
    workspace = Workspace(folder, VARIED)
    first = workspace.save()
    assert first.unchanged_files == 0
    for _ in range(2):
        again = workspace.save()
        assert again.unchanged_files == again.totals.files == 83
        assert again.unchanged_bytes == again.totals.bytes
        assert (again.chunks, again.chunks_transferred, again.transferred_bytes) == (first.chunks, 0, 0)
        assert again.totals == first.totals
        stages = {stage.stage: stage for stage in again.stages}
        assert stages[Stage.SCAN].entries_done == again.totals.entries
        assert Stage.PACK not in stages
        finished = [event for event in workspace.pipelines.events if isinstance(event, ChunkFinished)]
        assert len(finished) == again.chunks
        assert all(event.reused for event in finished)
    workspace.check(again)


@pytest.mark.usefixtures("quiet")
def test_full_reads_everything(folder: Path) -> None:
    workspace = Workspace(folder, VARIED)
    first = workspace.save()
    full = workspace.save(full=True)
    assert (full.unchanged_files, full.chunks_transferred) == (0, 0)
    assert workspace.pipelines.repository.summary(full.snapshot_id).parent == first.snapshot_id
    stages = {stage.stage: stage for stage in full.stages}
    assert stages[Stage.PACK].entries_done == full.totals.entries


def test_what_was_written_just_before_the_parent_is_read_again(folder: Path) -> None:
    workspace = Workspace(folder, VARIED)
    workspace.save()
    assert workspace.save().unchanged_files == 0


def rewrite(path: Path, place: int, data: bytes, keep_mtime: bool) -> None:
    """Changes bytes in the middle of a file; its directory does not notice."""
    facts = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)
    if keep_mtime:
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.usefixtures("quiet")
def test_one_changed_file_moves_one_segment_or_one_pack(folder: Path) -> None:
    workspace = Workspace(folder, [], 16 * MIB)
    for number in range(40):
        (workspace.path / f"small{number:02}").write_bytes(b"%08d" % number * (MIB // 8))
    with (workspace.path / "model.safetensors").open("wb") as file:
        for number in range(130):
            file.write(b"%08d" % number * (MIB // 8))
    first = workspace.save()
    assert first.chunks_transferred > 6
    # The old time is put back: only the change time of the inode tells.
    rewrite(workspace.path / "model.safetensors", 70 * MIB, b"changed", keep_mtime=True)
    second = workspace.save()
    assert workspace.moved() == [ChunkKind.SEGMENT]
    assert second.unchanged_files == 40
    rewrite(workspace.path / "small20", 100, b"changed", keep_mtime=True)
    third = workspace.save()
    assert workspace.moved() == [ChunkKind.PACK]
    in_that_pack = next(stage.entries_done for stage in third.stages if stage.stage is Stage.PACK)
    assert 41 - third.unchanged_files == in_that_pack < 20
    # The new time stands in the tar header, which is a chunk of its own.
    rewrite(workspace.path / "model.safetensors", 0, b"changed", keep_mtime=False)
    fourth = workspace.save()
    assert workspace.moved() == [ChunkKind.HEADER, ChunkKind.SEGMENT]
    workspace.check(fourth)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes()[::-1])
    facts = path.stat()
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(path)


def to_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("b")


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"x")


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten in place": lambda path: rewrite(path, 0, b"new", keep_mtime=True),
    "longer": lambda path: append(path, b"more"),
    "shorter": lambda path: os.truncate(path, 10),
    "a hole": lambda path: os.truncate(path, 100_000),
    "replaced": replace,
    "removed": Path.unlink,
    "renamed": lambda path: path.rename(path.with_name("renamed")),
    "mode": lambda path: path.chmod(0o600),
    "time": lambda path: os.utime(path, ns=(1, 1)),
    "attribute": lambda path: os.setxattr(path, "user.new", b"value"),
    "another name": lambda path: path.with_name("zz").hardlink_to(path),
    "an earlier name": lambda path: path.with_name("!").hardlink_to(path),
    "a link": to_link,
    "a folder": to_folder,
}


@pytest.mark.usefixtures("quiet", "small_packs")
@pytest.mark.parametrize("name", ["b/40", "b/07", "c/linked", "a/model.safetensors", "a/sparse"])
@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_change_is_saved_and_little_else_is_read(folder: Path, change: str, name: str) -> None:
    workspace = Workspace(folder, VARIED)
    workspace.save()
    CHANGES[change](workspace.path / name)
    second = workspace.save()
    assert second.unchanged_files > 30
    workspace.check(second)
    third = workspace.save()
    assert third.unchanged_files == third.totals.files


MUTATIONS = (
    "append", "rewrite", "truncate", "remove", "rename", "chmod", "touch", "link", "symlink", "new file", "new folder",
)  # fmt: skip


def mutate(root: bytes, mutation: str, place: int, number: int) -> None:
    """Does something to one of the paths below ``root``."""
    found = sorted(os.path.join(above, name) for above, folders, names in os.walk(root) for name in folders + names)
    if mutation.startswith("new") or not found:
        folders = [root, *(path for path in found if os.path.isdir(path) and not os.path.islink(path))]
        path = os.path.join(folders[place % len(folders)], b"new%d" % number)
        if mutation == "new folder":
            os.mkdir(path)
        else:
            Path(os.fsdecode(path)).write_bytes(b"n" * (place % 9000))
        return
    path = found[place % len(found)]
    is_file = os.path.isfile(path) and not os.path.islink(path)
    if mutation == "append" and is_file:
        append(path, b"more")
    elif mutation == "rewrite" and is_file:
        rewrite(Path(os.fsdecode(path)), place % 5000, b"%d" % number, keep_mtime=bool(place % 2))
    elif mutation == "truncate" and is_file:
        os.truncate(path, place % 9000)
    elif mutation == "remove":
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    elif mutation == "rename":
        os.rename(path, os.path.join(os.path.dirname(path), b"renamed%d" % number))
    elif mutation == "chmod" and not os.path.islink(path):
        os.chmod(path, 0o700 + place % 64)
    elif mutation == "touch":
        os.utime(path, ns=(place, place), follow_symlinks=False)
    elif mutation == "link" and not os.path.isdir(path):
        os.link(path, os.path.join(root, b"link%d" % number), follow_symlinks=False)
    elif mutation == "symlink":
        os.symlink(b"target", os.path.join(root, b"symlink%d" % number))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(
    nodes=trees(),
    rounds=st.lists(
        st.lists(st.tuples(st.sampled_from(MUTATIONS), st.integers(0, 20_000)), max_size=4), min_size=1, max_size=3
    ),
)
@pytest.mark.usefixtures("quiet", "small_packs")
def test_any_changes_of_any_tree(nodes: list[Node], rounds: list[list[tuple[str, int]]]) -> None:
    with tempfile.TemporaryDirectory(prefix="gpusnap-any-", dir=memory_folder()) as path:
        workspace = Workspace(Path(path), nodes)
        workspace.save()
        number = 0
        for changes in rounds:
            for mutation, place in changes:
                number += 1
                mutate(os.fsencode(workspace.path), mutation, place, number)
            result = workspace.save()
            if not changes:
                assert result.unchanged_files == result.totals.files
            workspace.check(result)


@pytest.mark.usefixtures("quiet")
def test_a_parent_without_facts_about_inodes_is_read_again(folder: Path) -> None:
    workspace = Workspace(folder, VARIED)
    first = workspace.save()
    store = workspace.pipelines.repository.store
    reader = workspace.pipelines.repository.manifest(first.snapshot_id)
    path = folder / "older"
    with path.open("wb") as file:
        writer = ManifestWriter(file)
        for entry in reader.entries():
            writer.add_entry(msgspec.structs.replace(entry, ctime_ns=0, inode=0, device=0))
        writer.finish(reader.summary, reader.chunks(), [])
    store.delete(keys.manifest(first.snapshot_id))
    store.upload(keys.manifest(first.snapshot_id), str(path))
    second = workspace.save()
    assert (second.unchanged_files, second.chunks_transferred) == (0, 0)
    assert workspace.save().unchanged_files == second.totals.files


@pytest.mark.usefixtures("quiet")
def test_a_damaged_parent_is_a_warning_and_everything_is_read(folder: Path) -> None:
    workspace = Workspace(folder, VARIED)
    first = workspace.save()
    path = workspace.pipelines.store_folder / keys.manifest(first.snapshot_id)
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1  # within the entries: footer and chunk table stay whole
    path.write_bytes(damaged)
    second = workspace.save()
    assert second.unchanged_files == 0
    assert set(workspace.pipelines.warned()) == {"SNAPSHOT_DAMAGED"}
    workspace.check(second)


@pytest.mark.usefixtures("quiet")
def test_other_hosts_and_workspaces_are_no_parents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(folder, VARIED)
    workspace.save()
    other = folder / "other"
    shutil.copytree(workspace.path, other, symlinks=True)
    assert workspace.pipelines.snapshot(os.fsencode(other), large_file_size=LARGE).unchanged_files == 0
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert workspace.save().unchanged_files == 0
    assert workspace.save().unchanged_files == 83


@pytest.mark.usefixtures("quiet", "small_packs")
def test_filters_may_change_between_snapshots(folder: Path) -> None:
    workspace = Workspace(folder, VARIED)
    root = os.fsencode(workspace.path)
    pipelines = workspace.pipelines
    workspace.save()
    without = pipelines.snapshot(root, large_file_size=LARGE, exclude=["/b/07", "/a/sparse"])
    kinds = {path: entry.type for path, entry in pipelines.entries(without.snapshot_id).items()}
    assert b"b/07" not in kinds
    assert kinds[b"c/linked"] is EntryType.FILE
    included = pipelines.snapshot(root, large_file_size=LARGE, include=["/b"])
    assert included.unchanged_files > 40
    assert set(pipelines.entries(included.snapshot_id)) == {b"", b"b"} | {b"b/%02d" % number for number in range(80)}
    again = pipelines.snapshot(root, large_file_size=LARGE, include=["/b"])
    assert again.unchanged_files == again.totals.files == 80
    workspace.check(workspace.save())


@pytest.mark.usefixtures("quiet")
def test_what_a_model_is_may_change_between_snapshots(folder: Path) -> None:
    workspace = Workspace(folder, VARIED)
    assert workspace.save().totals.models.files == 1
    workspace.pipelines.scan = ScanConfig(model_suffixes=(".safetensors", "sparse"))
    again = workspace.save()
    assert again.totals.models.files == 2
    assert workspace.pipelines.entries(again.snapshot_id)[b"a/sparse"].model


def is_old(path: Path) -> bool:
    """Says whether a file was left alone for longer than changes may share a time."""
    return time.time_ns() - path.stat().st_ctime_ns > parent.RACY_NS + 100_000_000


def test_a_person_sees_what_was_not_read_and_can_have_it_read(daemon: Daemon, workspace: Path) -> None:
    gpusnap = Gpusnap(daemon.address)
    wait_until(lambda: is_old(workspace / "model.safetensors"), "the workspace's files to be old")
    assert "unchanged" not in gpusnap.run("snapshot", str(workspace)).stderr
    again = gpusnap.run("snapshot", str(workspace))
    assert "2 files, " in again.stderr
    assert "2 unchanged files not read; none of " in again.stderr
    ended = gpusnap.run("snapshot", str(workspace), "--json").records[-1]
    assert (ended["result"]["unchanged_files"], ended["result"]["unchanged_bytes"]) == (2, 100_015)
    assert "unchanged" not in gpusnap.run("snapshot", str(workspace), "--full").stderr
    with urllib.request.urlopen(daemon.metrics_url, timeout=10) as answer:
        assert "gpusnap_unchanged_files_total 4.0" in answer.read().decode()
