"""Damaged and hostile repositories, full disks, changing files, cancels: nothing wrong is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import CancelledError, DataLossError, GpusnapError, LocalIoError, StorageUnavailableError
from agent.events import ChunkFinished, ChunkKind, FileReady, PipelineEvent
from agent.repository import keys
from agent.repository.model import Chunk, Entry, EntryType
from agent.restore.request import IfNotEmpty
from tests.support import forging
from tests.support.pipelines import Pipelines, damage_of, leftovers, memory_folder
from tests.support.trees import Directory, File, HardLink, Node, Seeded, Symlink, build, compare, facts

IS_ROOT = os.geteuid() == 0
LARGE = 5000
CANCEL_SECONDS = 2.0

TREE: list[Node] = [
    Directory(b"dir"),
    File(b"dir/large", Seeded(7000, seed=1)),
    File(b"dir/zero", b""),
    HardLink(b"more", b"dir/large"),
    File(b"small a", b"a" * 100),
    Symlink(b"small link", b"small a"),
    HardLink(b"small more", b"small a"),
    File(b"x large", Seeded(9000, seed=2)),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-damage-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


class Saved:
    """A saved workspace, to be damaged."""

    def __init__(self, folder: Path, nodes: list[Node]) -> None:
        self.folder = folder
        self.workspace, self.target = folder / "workspace", folder / "target"
        build(os.fsencode(self.workspace), nodes)
        self.pipelines = Pipelines(folder)
        self.id = self.pipelines.snapshot(os.fsencode(self.workspace), large_file_size=LARGE).snapshot_id
        self.entries = self.pipelines.entries(self.id)
        self.chunks = self.pipelines.chunks(self.id)

    def chunk_of(self, path: bytes, segment: int = 0) -> Chunk:
        """Returns the chunk that holds the content of a file."""
        entry = self.entries[path]
        return self.chunks[entry.chunk + (1 + segment if entry.segments else 0)]

    def restore(self, if_not_empty: IfNotEmpty = IfNotEmpty.FAIL) -> None:
        self.pipelines.restore(os.fsencode(self.target), self.id, if_not_empty=if_not_empty)

    def missing(self) -> set[str]:
        """Returns what of the workspace is not in the target; all else must be identical."""
        found = compare(os.fsencode(self.workspace), os.fsencode(self.target))
        lines = [line for line in found if "a hard link of" not in line]
        assert all(line.endswith(": missing") for line in lines), lines
        return {line.removesuffix(": missing") for line in lines}


@pytest.fixture
def saved(folder: Path) -> Saved:
    return Saved(folder, TREE)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replace_by_another(path: Path) -> None:
    path.write_bytes(forging.frame(b"z" * 512))


DAMAGES: list[Callable[[Path], None]] = [flip, truncate, extend, empty, replace_by_another, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_segment(saved: Saved, damage: Callable[[Path], None]) -> None:
    chunk = saved.chunk_of(b"dir/large")
    damage(saved.pipelines.chunk_file(chunk))
    with pytest.raises(DataLossError, match=f"{chunk.id.hex()}.*dir/large") as caught:
        saved.restore()
    assert damage_of(caught.value) == {chunk.id.hex(): {b"dir/large"}}
    assert saved.missing() == {"dir/large", "more"}
    assert leftovers(os.fsencode(saved.target)) == []
    ready = {event.path for event in saved.pipelines.events if isinstance(event, FileReady)}
    assert ready == {b"x large"}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_pack(saved: Saved, damage: Callable[[Path], None]) -> None:
    chunk = saved.chunk_of(b"small a")
    damage(saved.pipelines.chunk_file(chunk))
    with pytest.raises(DataLossError) as caught:
        saved.restore()
    (paths,) = damage_of(caught.value).values()
    assert paths >= {b"small a", b"small link"}
    assert saved.missing() == {path.decode() for path in paths} | {"small more"}
    assert "dir/large" not in saved.missing()
    assert leftovers(os.fsencode(saved.target)) == []


def test_a_missing_header_chunk_matters_to_standard_tools_only(saved: Saved) -> None:
    header = saved.chunks[saved.entries[b"dir/large"].chunk]
    assert header.kind is ChunkKind.HEADER
    saved.pipelines.chunk_file(header).unlink()
    saved.restore()
    assert saved.missing() == set()


def test_damage_keeps_the_old_file_and_mirrors_nothing_away(saved: Saved) -> None:
    build(os.fsencode(saved.target), [File(b"dir/large", b"old"), File(b"mine", b"x")])
    flip(saved.pipelines.chunk_file(saved.chunk_of(b"dir/large")))
    with pytest.raises(DataLossError):
        saved.restore(IfNotEmpty.MIRROR)
    assert (saved.target / "dir/large").read_text() == "old"
    assert (saved.target / "mine").read_text() == "x"
    assert (saved.target / "x large").read_bytes() == (saved.workspace / "x large").read_bytes()


def test_all_chunks_missing(saved: Saved) -> None:
    shutil.rmtree(saved.pipelines.store_folder / "chunks")
    with pytest.raises(DataLossError) as caught:
        saved.restore()
    lost = set().union(*damage_of(caught.value).values())
    assert lost >= {b"dir/large", b"x large", b"small a"}
    assert {path.name for path in saved.target.iterdir()} == {"dir"}


def test_damage_is_healed_by_a_new_snapshot_once_the_damaged_one_is_deleted(saved: Saved) -> None:
    flip(saved.pipelines.chunk_file(saved.chunk_of(b"dir/large")))
    saved.pipelines.repository.delete_snapshot(saved.id)
    again = saved.pipelines.snapshot(os.fsencode(saved.workspace), large_file_size=LARGE)
    assert again.chunks_transferred == again.chunks
    saved.id = again.snapshot_id
    saved.restore()
    assert saved.missing() == set()


@pytest.mark.parametrize(
    "damage", [flip, truncate, extend, empty, replace_by_another], ids=lambda damage: damage.__name__
)
def test_a_damaged_manifest_restores_nothing(saved: Saved, damage: Callable[[Path], None]) -> None:
    damage(saved.pipelines.store_folder / keys.manifest(saved.id))
    with pytest.raises(DataLossError):
        saved.restore()
    assert not saved.target.exists()


def test_a_damaged_manifest_does_not_stop_the_next_snapshot(saved: Saved) -> None:
    flip(saved.pipelines.store_folder / keys.manifest(saved.id))
    again = saved.pipelines.snapshot(os.fsencode(saved.workspace), large_file_size=LARGE)
    assert again.chunks_transferred == again.chunks
    assert set(saved.pipelines.warned()) == {"SNAPSHOT_DAMAGED"}
    saved.pipelines.repository.delete_snapshot(saved.id)
    saved.id = again.snapshot_id
    saved.restore()
    assert saved.missing() == set()


ROOT = forging.directory(b"")
PACK = b"EVIL" * 128


def large(path: bytes, **fields: object) -> Entry:
    return forging.file(path, 0, 512, chunk=1, segments=1, **fields)


HOSTILE: dict[str, list[Entry]] = {
    "up": [ROOT, forging.file(b"../outside/evil", 0, 4)],
    "absolute": [ROOT, forging.file(b"/evil", 0, 4)],
    "up from below": [ROOT, forging.directory(b"a"), forging.file(b"a/../../outside/evil", 0, 4)],
    "a directory up": [ROOT, forging.directory(b"../outside/evil")],
    "through a link": [ROOT, forging.symlink(b"a", b"OUTSIDE"), forging.file(b"a/evil", 0, 4)],
    "a large file through a link": [ROOT, forging.symlink(b"a", b"OUTSIDE"), large(b"a/evil")],
    "a directory through a link": [ROOT, forging.symlink(b"a", b"OUTSIDE"), forging.directory(b"a/evil")],
    "a link replaced": [
        ROOT,
        forging.symlink(b"a", b"OUTSIDE"),
        forging.directory(b"a"),
        forging.file(b"a/evil", 0, 4),
    ],
    "hard link up": [ROOT, forging.file(b"a", 0, 4, hard_link_group=1), forging.hard_link(b"evil", b"../outside/file")],
    "hard link absolute": [ROOT, forging.hard_link(b"evil", b"/etc/passwd")],
    "hard link through a link": [ROOT, forging.symlink(b"a", b"OUTSIDE"), forging.hard_link(b"evil", b"a/file")],
    "hard link to nothing": [ROOT, forging.hard_link(b"evil", b"nowhere")],
    "absurd size": [ROOT, forging.file(b"evil", 0, 0, sparse=True, size=2**62 + 1)],
    "absurd content": [ROOT, forging.file(b"evil", 0, 2**40)],
    "absurd owner": [ROOT, forging.file(b"evil", 0, 4, uid=2**32 - 1)],
    "absurd device": [
        ROOT,
        msgspec.structs.replace(forging.file(b"evil"), type=EntryType.BLOCK_DEVICE, device_major=2**32 - 1),
    ],
    "absurd segments": [ROOT, forging.file(b"evil", 0, 2**50, chunk=1, segments=2**24)],
    "a pack in two pieces": [ROOT, forging.file(b"a", 0, 4), large(b"b"), forging.file(b"c", 0, 4)],
    "no workspace": [forging.file(b"evil", 0, 4)],
    "the workspace is a link": [forging.symlink(b"", b"OUTSIDE"), forging.file(b"evil", 0, 4)],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_writes_nothing_anywhere(folder: Path, case: str) -> None:
    outside = folder / "outside"
    build(os.fsencode(outside), [File(b"file", b"x")])
    before = facts(os.fsencode(outside))
    entries = [
        msgspec.structs.replace(entry, link_target=entry.link_target.replace(b"OUTSIDE", os.fsencode(outside)))
        for entry in HOSTILE[case]
    ]
    pipelines = Pipelines(folder)
    raw = [(PACK, ChunkKind.PACK), (b"h" * 512, ChunkKind.HEADER), (b"s" * 512, ChunkKind.SEGMENT)]
    snapshot = forging.store_snapshot(pipelines.repository, folder / "manifest", entries, raw)
    for mode in (IfNotEmpty.FAIL, IfNotEmpty.MIRROR):
        with pytest.raises(DataLossError):
            pipelines.restore(os.fsencode(folder / "target"), snapshot, if_not_empty=mode)
    assert not (folder / "target").exists()
    assert facts(os.fsencode(outside)) == before


def test_a_well_formed_forged_manifest_is_restored(folder: Path) -> None:
    """The hostile ones are refused for what they say, not for how they were made."""
    pipelines = Pipelines(folder)
    entries = [
        ROOT,
        forging.directory(b"a"),
        forging.file(b"a/file", 4, 4),
        large(b"large", hard_link_group=1),
        forging.hard_link(b"more", b"large", chunk=3),
    ]
    raw = [
        (PACK, ChunkKind.PACK),
        (b"h" * 512, ChunkKind.HEADER),
        (b"s" * 512, ChunkKind.SEGMENT),
        (b"p" * 512, ChunkKind.PACK),
    ]
    snapshot = forging.store_snapshot(pipelines.repository, folder / "manifest", entries, raw)
    pipelines.restore(os.fsencode(folder / "target"), snapshot)
    assert (folder / "target/a/file").read_bytes() == b"EVIL"
    assert (folder / "target/more").read_bytes() == b"s" * 512


def test_a_file_that_the_file_system_cannot_hold(tmp_path: Path) -> None:
    folder = tmp_path
    pipelines = Pipelines(folder)
    entries = [ROOT, forging.file(b"evil", 0, 0, sparse=True, size=2**62)]
    snapshot = forging.store_snapshot(pipelines.repository, folder / "manifest", entries, [(PACK, ChunkKind.PACK)])
    with pytest.raises(LocalIoError, match="evil cannot be written"):
        pipelines.restore(os.fsencode(folder / "target"), snapshot)
    assert not (folder / "target").exists() or os.listdir(folder / "target") == []


def test_attributes_that_the_file_system_has_no_room_for_are_a_warning() -> None:
    """ext4 says "no space" to an attribute that is larger than a block."""
    with tempfile.TemporaryDirectory(prefix="gpusnap-damage-") as name:
        folder = Path(name)
        pipelines = Pipelines(folder)
        entries = [ROOT, forging.file(b"file", 0, 4, xattrs=((b"user.large", bytes(1 << 20)),))]
        snapshot = forging.store_snapshot(pipelines.repository, folder / "manifest", entries, [(PACK, ChunkKind.PACK)])
        pipelines.restore(os.fsencode(folder / "target"), snapshot)
        assert pipelines.warned() == {"XATTR_NOT_RESTORED": {b"file"}}
        assert (folder / "target/file").read_bytes() == b"EVIL"


class Pause(threading.Event):
    """Stops the operation inside the first event of a kind, until the test has done something."""

    def __init__(self, kind: type[PipelineEvent], then: Callable[[], object]) -> None:
        super().__init__()
        self._kind = kind
        self._then = then

    def emit(self, event: PipelineEvent) -> None:
        if isinstance(event, self._kind) and not self.is_set():
            self.set()
            self._then()


def in_the_middle(pipelines: Pipelines, kind: type[PipelineEvent], then: Callable[[], object]) -> Pause:
    """Calls ``then`` within the first event of a kind of the next operation."""
    pause = Pause(kind, then)

    class Events(list[PipelineEvent]):
        def append(self, event: PipelineEvent) -> None:
            super().append(event)
            pause.emit(event)

    pipelines.new_events = Events
    return pause


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_link_planted_while_a_restore_runs_leads_nowhere(folder: Path, kind: str) -> None:
    nodes: list[Node] = [File(b"d%02d/large" % number, Seeded(6000, seed=number)) for number in range(40)]
    saved = Saved(folder, nodes)
    saved.pipelines.transfer = msgspec.structs.replace(saved.pipelines.transfer, threads=1)
    outside = folder / "outside"
    build(os.fsencode(outside), [File(b"large", b"outside")])
    before = facts(os.fsencode(outside))

    def plant() -> None:
        for path in saved.target.glob("d*"):
            if kind == "directory" and not os.listdir(path):
                path.rmdir()
                path.symlink_to(outside)
            elif kind == "file" and not (path / "large").exists():
                (path / "large").symlink_to(outside / "large")

    pause = in_the_middle(saved.pipelines, FileReady, plant)
    if kind == "directory":
        with pytest.raises(LocalIoError, match="something on the way to it is a link"):
            saved.restore()
    else:
        saved.restore()
        assert saved.missing() == set()
    assert pause.is_set()
    assert facts(os.fsencode(outside)) == before
    assert leftovers(os.fsencode(saved.target)) == []


def test_a_cancelled_restore_leaves_no_unfinished_file(folder: Path) -> None:
    nodes: list[Node] = [File(b"f%03d" % number, Seeded(6000, seed=number)) for number in range(300)]
    saved = Saved(folder, nodes)
    cancel = threading.Event()
    begun: list[float] = []

    def stop() -> None:
        begun.append(time.monotonic())
        cancel.set()

    in_the_middle(saved.pipelines, FileReady, stop)
    with pytest.raises(CancelledError):
        saved.pipelines.restore(os.fsencode(saved.target), saved.id, cancel=cancel)
    assert time.monotonic() - begun[0] < CANCEL_SECONDS
    assert leftovers(os.fsencode(saved.target)) == []
    for path in saved.target.iterdir():
        assert path.read_bytes() == (saved.workspace / path.name).read_bytes()
    # The same request continues.
    saved.restore(IfNotEmpty.OVERWRITE)
    assert saved.missing() == set()


def test_a_cancelled_snapshot_leaves_nothing(folder: Path) -> None:
    nodes: list[Node] = [File(b"f%03d" % number, Seeded(6000, seed=number)) for number in range(300)]
    build(os.fsencode(folder / "workspace"), nodes)
    pipelines = Pipelines(folder)
    cancel = threading.Event()
    begun: list[float] = []

    def stop() -> None:
        begun.append(time.monotonic())
        cancel.set()

    in_the_middle(pipelines, ChunkFinished, stop)
    with pytest.raises(CancelledError):
        pipelines.snapshot(os.fsencode(folder / "workspace"), large_file_size=LARGE, cancel=cancel)
    assert time.monotonic() - begun[0] < CANCEL_SECONDS
    assert pipelines.repository.list_snapshots(10) == []
    assert not list((pipelines.store_folder / ".gpusnap-incoming").glob("*"))
    pipelines.new_events = list
    pipelines.snapshot(os.fsencode(folder / "workspace"), large_file_size=LARGE)
    pipelines.restore(os.fsencode(folder / "target"))
    assert compare(os.fsencode(folder / "workspace"), os.fsencode(folder / "target")) == []


def test_a_cancel_before_the_start(saved: Saved) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        saved.pipelines.restore(os.fsencode(saved.target), saved.id, cancel=cancel)
    assert not saved.target.exists()
    with pytest.raises(CancelledError):
        saved.pipelines.snapshot(os.fsencode(saved.workspace), cancel=cancel)
    assert [summary.id for summary in saved.pipelines.repository.list_snapshots(10)] == [saved.id]


def test_a_store_that_fails_in_the_middle_of_a_snapshot(folder: Path) -> None:
    nodes: list[Node] = [File(b"f%03d" % number, Seeded(6000, seed=number)) for number in range(300)]
    build(os.fsencode(folder / "workspace"), nodes)
    pipelines = Pipelines(folder)
    moved = folder / "moved"
    in_the_middle(pipelines, ChunkFinished, lambda: pipelines.store_folder.rename(moved))
    with pytest.raises(GpusnapError) as caught:
        pipelines.snapshot(os.fsencode(folder / "workspace"), large_file_size=LARGE)
    assert caught.value.reason in {
        "BUCKET_NOT_FOUND",
        "OBJECT_NOT_FOUND",
        "PATH_NOT_FOUND",
        StorageUnavailableError.reason,
    }
    moved.rename(pipelines.store_folder)
    pipelines.new_events = list
    assert pipelines.repository.list_snapshots(10) == []
    pipelines.snapshot(os.fsencode(folder / "workspace"), large_file_size=LARGE)
    pipelines.restore(os.fsencode(folder / "target"))
    assert compare(os.fsencode(folder / "workspace"), os.fsencode(folder / "target")) == []


def test_a_store_that_fails_in_the_middle_of_a_restore(folder: Path) -> None:
    nodes: list[Node] = [File(b"f%03d" % number, Seeded(6000, seed=number)) for number in range(300)]
    saved = Saved(folder, nodes)
    moved = folder / "moved"
    in_the_middle(saved.pipelines, FileReady, lambda: saved.pipelines.store_folder.rename(moved))
    with pytest.raises(GpusnapError):
        saved.restore()
    assert leftovers(os.fsencode(saved.target)) == []
    moved.rename(saved.pipelines.store_folder)
    saved.pipelines.new_events = list
    saved.restore(IfNotEmpty.OVERWRITE)
    assert saved.missing() == set()


def rewrite(path: Path, stop: threading.Event) -> None:
    while not stop.is_set():
        path.write_bytes(os.urandom(20_000))


def append(path: Path, stop: threading.Event) -> None:
    with path.open("ab", buffering=0) as file:
        while not stop.is_set():
            if file.write(os.urandom(100)) and file.tell() > 50_000:
                file.truncate(0)


def grow_and_shrink(path: Path, stop: threading.Event) -> None:
    sizes = (0, 1, 513, 4000, 4096, 7000, 100_000)
    while not stop.is_set():
        for size in sizes:
            os.truncate(path, size)


def punch_holes(path: Path, stop: threading.Event) -> None:
    while not stop.is_set():
        path.write_bytes(os.urandom(30_000))
        with path.open("r+b") as file:
            file.truncate(0)
            file.seek(25_000)
            file.write(b"end")


def replace_and_remove(path: Path, stop: threading.Event) -> None:
    other = path.with_name("other")
    while not stop.is_set():
        other.write_bytes(os.urandom(6000))
        other.replace(path)
        path.unlink()
        path.mkdir()
        path.rmdir()
        path.symlink_to("a")
        path.unlink()


@pytest.mark.parametrize("change", [rewrite, append, grow_and_shrink, punch_holes, replace_and_remove])
@pytest.mark.parametrize("large", [1, 1 << 30])
def test_a_file_that_changes_while_it_is_read(
    folder: Path, change: Callable[[Path, threading.Event], None], large: int
) -> None:
    workspace = folder / "workspace"
    steady: list[Node] = [File(b"a", Seeded(9000)), File(b"z", b"z" * 600)]
    build(os.fsencode(workspace), [*steady, File(b"m", b"x")])
    pipelines = Pipelines(folder)
    stop = threading.Event()
    thread = threading.Thread(target=change, args=(workspace / "m", stop))
    thread.start()
    try:
        for number in range(6):
            saved = pipelines.snapshot(os.fsencode(workspace), large_file_size=large)
            warned = pipelines.warned()
            assert set(warned) <= {"FILE_CHANGED", "FILE_VANISHED", "FILE_UNREADABLE"}
            target = folder / f"target{number}"
            pipelines.restore(os.fsencode(target), saved.snapshot_id)
            for name in ("a", "z"):
                assert (target / name).read_bytes() == (workspace / name).read_bytes()
            # The archive is well formed whatever happened.
            listed = pipelines.store_folder / "snapshots" / saved.snapshot_id / "chunks.txt"
            command = f'while read key; do cat "{pipelines.store_folder}/$key"; done < {listed} | lz4 -dc | tar -t'
            subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=30)
    finally:
        stop.set()
        thread.join()


def in_a_small_file_system(place: Path, size: str, code: str, *arguments: object) -> str:
    """Runs code in a process with a mount of its own, and returns the class of the error that it ends with."""
    place.mkdir()
    root = Path(__file__).parents[2]
    script = f'mount -t tmpfs -o size={size} tmpfs "{place}" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/proto"},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


TRY = """
import os, sys
from pathlib import Path
from agent.errors import GpusnapError
from tests.support.pipelines import Pipelines, leftovers
operation, folder, place = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
pipelines = Pipelines.reopen(folder)
try:
    if operation == "snapshot":
        pipelines.snapshot(os.fsencode(folder / "workspace"), staging=place)
    elif operation == "staging":
        pipelines.restore(os.fsencode(folder / "target"), staging=place)
    else:
        (place / "mine").write_bytes(bytes(int(operation)))
        pipelines.restore(os.fsencode(place / "target"))
except GpusnapError as error:
    print(error.reason)
print(sorted(os.listdir(place)), leftovers(os.fsencode(place)))
"""

needs_mounts = pytest.mark.skipif(not IS_ROOT, reason="only root can mount file systems")


@needs_mounts
def test_a_target_without_room_is_refused_before_anything_is_written(folder: Path) -> None:
    saved = Saved(folder, [File(b"large", Seeded(20 << 20, compressible=True)), File(b"small", b"x")])
    place = folder / "place"
    said = in_a_small_file_system(place, "16m", TRY, 0, saved.folder, place)
    assert said.splitlines() == ["NO_SPACE", "['mine'] []"]


@needs_mounts
def test_a_target_that_gets_full_keeps_only_complete_files(folder: Path) -> None:
    # The content would fit, but every small file takes a whole page.
    saved = Saved(folder, [File(b"f%04d" % number, b"x" * 100) for number in range(600)])
    place = folder / "place"
    said = in_a_small_file_system(place, "2m", TRY, 1 << 20, saved.folder, place)
    assert said.splitlines() == ["NO_SPACE", "['mine', 'target'] []"]


@needs_mounts
def test_a_staging_folder_without_room(folder: Path) -> None:
    nodes: list[Node] = [File(b"f%05d" % number + b"n" * 200, b"") for number in range(3000)]
    saved = Saved(folder, nodes)
    for number, operation in enumerate(("snapshot", "staging")):
        place = folder / f"place{number}"
        said = in_a_small_file_system(place, "16k", TRY, operation, saved.folder, place)
        assert said.splitlines()[0] in ("NO_SPACE", "STAGING_FULL")
    assert not saved.target.exists()
    assert len(saved.pipelines.repository.list_snapshots(10)) == 1


AS_NOBODY = """
import os, sys
from pathlib import Path
from tests.support.pipelines import Pipelines
folder = Path(sys.argv[1])
pipelines = Pipelines.reopen(folder)
pipelines.snapshot(os.fsencode(folder / "workspace"), staging=folder / "staging")
print(sorted((reason, sorted(paths)) for reason, paths in pipelines.warned().items()))
print(sorted(pipelines.entries(pipelines.repository.resolve("latest"))))
"""


@needs_mounts
def test_what_cannot_be_read_is_a_warning(folder: Path) -> None:
    nobody = (65534, 65534)
    nodes: list[Node] = [
        Directory(b"closed", mode=0o700),
        File(b"closed/file", b"x"),
        File(b"secret", b"x", mode=0o600),
        HardLink(b"secret too", b"secret"),
        File(b"mine", b"x", owner=nobody, mode=0o600),
        File(b"open", b"x"),
    ]
    build(os.fsencode(folder / "workspace"), nodes)
    folder.chmod(0o755)
    for name in ("store", "staging"):
        (folder / name).mkdir()
        os.chown(folder / name, *nobody)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", AS_NOBODY, str(folder)],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/proto", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    warned, saved = done.stdout.decode().splitlines()
    assert "'FILE_UNREADABLE', [b'closed', b'secret']" in warned
    assert "b'secret too'" in warned
    assert saved == "[b'', b'closed', b'mine', b'open']"
