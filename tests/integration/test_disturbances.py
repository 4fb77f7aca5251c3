"""Cancels, failing stores, planted links and changing files in the middle of an operation."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import (
    CancelledError,
    GpusnapError,
    LocalIoError,
)
from agent.events import ChunkFinished, FileReady, PipelineEvent
from agent.restore.request import IfNotEmpty
from tests.support.pipelines import Pipelines, leftovers, memory_folder
from tests.support.saved import LARGE, VARIED_TREE, Saved
from tests.support.trees import File, Node, Seeded, build, compare

CANCEL_SECONDS = 2.0


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


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-damage-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def saved(folder: Path) -> Saved:
    return Saved(folder, VARIED_TREE)


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_link_planted_while_a_restore_runs_leads_nowhere(folder: Path, kind: str) -> None:
    nodes: list[Node] = [File(b"d%02d/large" % number, Seeded(6000, seed=number)) for number in range(40)]
    saved = Saved(folder, nodes)
    saved.pipelines.transfer = msgspec.structs.replace(saved.pipelines.transfer, workers=1)
    outside = saved.outside
    (outside / "large").write_text("outside")

    def plant() -> None:
        for number in range(40):
            path = saved.target / f"d{number:02d}"
            if kind == "directory" and not path.exists():
                path.symlink_to(outside)
            elif kind == "file" and not (path / "large").exists():
                path.mkdir(exist_ok=True)
                (path / "large").symlink_to(outside / "large")

    pause = in_the_middle(saved.pipelines, FileReady, plant)
    if kind == "directory":
        with pytest.raises(LocalIoError, match="something on the way to it is a link"):
            saved.restore()
    else:
        saved.restore()
        assert saved.missing() == set()
    assert pause.is_set()


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


def test_an_event_that_cannot_be_told_fails_a_snapshot(folder: Path) -> None:
    build(
        os.fsencode(folder / "workspace"), [File(b"f%03d" % number, Seeded(6000, seed=number)) for number in range(9)]
    )
    pipelines = Pipelines(folder)

    def fail() -> None:
        raise RuntimeError("nobody can be told")

    in_the_middle(pipelines, ChunkFinished, fail)
    cancel = threading.Event()
    # Without a bound the snapshot would wait for ever for the upload that the event was about.
    limit = threading.Timer(60.0, cancel.set)
    limit.start()
    with pytest.raises(RuntimeError, match="nobody can be told"):
        pipelines.snapshot(os.fsencode(folder / "workspace"), large_file_size=LARGE, cancel=cancel)
    limit.cancel()
    assert pipelines.repository.list_snapshots(10) == []


def break_store(store: Path) -> None:
    """Makes every access to a chunk fail, until ``mend_store``."""
    (store / "chunks").rename(store / "moved")
    while True:
        try:
            (store / "chunks").write_text("no folder")
            return
        except IsADirectoryError:  # whoever stores a chunk has made it again
            shutil.rmtree(store / "chunks", ignore_errors=True)


def mend_store(store: Path) -> None:
    (store / "chunks").unlink()
    (store / "moved").rename(store / "chunks")


def test_a_store_that_fails_in_the_middle_of_a_snapshot(folder: Path) -> None:
    nodes: list[Node] = [File(b"f%03d" % number, Seeded(6000, seed=number)) for number in range(300)]
    build(os.fsencode(folder / "workspace"), nodes)
    pipelines = Pipelines(folder)
    in_the_middle(pipelines, ChunkFinished, lambda: break_store(pipelines.store_folder))
    with pytest.raises(GpusnapError) as caught:
        pipelines.snapshot(os.fsencode(folder / "workspace"), large_file_size=LARGE)
    assert caught.value.reason != GpusnapError.reason
    mend_store(pipelines.store_folder)
    pipelines.new_events = list
    assert pipelines.repository.list_snapshots(10) == []
    pipelines.snapshot(os.fsencode(folder / "workspace"), large_file_size=LARGE)
    pipelines.restore(os.fsencode(folder / "target"))
    assert compare(os.fsencode(folder / "workspace"), os.fsencode(folder / "target")) == []


def test_a_store_that_fails_in_the_middle_of_a_restore(folder: Path) -> None:
    nodes: list[Node] = [File(b"f%03d" % number, Seeded(6000, seed=number)) for number in range(300)]
    saved = Saved(folder, nodes)
    in_the_middle(saved.pipelines, FileReady, lambda: break_store(saved.pipelines.store_folder))
    with pytest.raises(GpusnapError) as caught:
        saved.restore()
    assert caught.value.reason != GpusnapError.reason
    mend_store(saved.pipelines.store_folder)
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
