"""Worker processes of an operation: they die, and nothing is lost."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import CancelledError, DataLossError, WorkerCrashedError
from agent.events import ChunkFinished, PipelineEvent, ScanTotals
from agent.pipeline.worker_processes import WorkerProcesses
from agent.restore.hands import Hand, Hands
from agent.restore.request import IfNotEmpty
from agent.restore.task import LocalTask, PackBuild, SegmentCopy, Written
from tests.support.pipelines import memory_folder
from tests.support.processes import processes_running
from tests.support.saved import LARGE, VARIED_TREE, Saved
from tests.support.trees import File, Node, Seeded

WORKERS = ("agent.restore.worker", "agent.snapshot.worker")
MANY: list[Node] = [File(b"large-%03d" % number, Seeded(6000, seed=number)) for number in range(200)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-workers-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)
    assert workers_running() == set()


def workers_running() -> set[int]:
    return {pid for module in WORKERS for pid in processes_running(module)}


def with_workers(saved: Saved, workers: int = 2) -> Saved:
    saved.pipelines.transfer = msgspec.structs.replace(saved.pipelines.transfer, workers=workers)
    return saved


def kill_at_chunks(saved: Saved, when: set[int], number: int = signal.SIGKILL) -> list[int]:
    """Kills the worker processes of the next operation at these of its finished chunks; returns whom, later."""
    killed: list[int] = []

    class Events(list[PipelineEvent]):
        finished = 0

        def append(self, event: PipelineEvent) -> None:
            super().append(event)
            if isinstance(event, ChunkFinished):
                Events.finished += 1
                if Events.finished in when:
                    for pid in workers_running():
                        with contextlib.suppress(ProcessLookupError):  # it has just ended
                            os.kill(pid, number)
                            killed.append(pid)

    saved.pipelines.new_events = Events
    return killed


def cancel_at_first_chunk(saved: Saved) -> threading.Event:
    """Returns the event that cancels the next operation, which is set in the middle of it."""
    cancel = threading.Event()

    class Events(list[PipelineEvent]):
        def append(self, event: PipelineEvent) -> None:
            super().append(event)
            if isinstance(event, ChunkFinished):
                cancel.set()

    saved.pipelines.new_events = Events
    return cancel


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_everything_is_restored(folder: Path, workers: int) -> None:
    saved = with_workers(Saved(folder, VARIED_TREE), workers)
    saved.restore()
    assert saved.differences() == []


def test_the_chunk_of_a_killed_worker_is_written_by_another(folder: Path) -> None:
    saved = with_workers(Saved(folder, MANY))
    killed = kill_at_chunks(saved, {1, 100})
    saved.restore()
    assert saved.differences() == []
    assert killed


def stop_at_chunks(saved: Saved, when: set[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The same, but they are only stopped, and waited for a few seconds."""
    patient = functools.partial(WorkerProcesses, silence_seconds=8.0)
    monkeypatch.setattr("agent.restore.run.WorkerProcesses", patient)
    monkeypatch.setattr("agent.snapshot.run.WorkerProcesses", patient)
    return kill_at_chunks(saved, when, signal.SIGSTOP)


@pytest.mark.parametrize("is_snapshot", [False, True])
def test_the_chunk_of_a_stopped_worker_is_done_by_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_snapshot: bool
) -> None:
    saved = with_workers(Saved(folder, MANY))
    stopped = stop_at_chunks(saved, {50}, monkeypatch)
    cancel = threading.Event()
    # One that is waited for without a bound would stay for ever.
    limit = threading.Timer(60.0, cancel.set)
    limit.start()
    if is_snapshot:
        saved.pipelines.repository.delete_snapshot(saved.id)
        saved.id = saved.pipelines.snapshot(
            os.fsencode(saved.workspace), large_file_size=LARGE, cancel=cancel
        ).snapshot_id
        saved.pipelines.new_events = list
    saved.restore(cancel=cancel)
    limit.cancel()
    assert saved.differences() == []
    assert stopped


def test_workers_that_always_die_fail_the_restore(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = with_workers(Saved(folder, MANY))
    # The interpreter refuses to start with it.
    monkeypatch.setenv("PYTHONMALLOC", "no such allocator")
    with pytest.raises(WorkerCrashedError, match="3 worker processes died over chunk"):
        saved.restore()
    monkeypatch.undo()
    saved.restore()
    assert saved.differences() == []


def test_a_cancel_ends_the_workers(folder: Path) -> None:
    saved = with_workers(Saved(folder, MANY))
    with pytest.raises(CancelledError):
        saved.restore(cancel=cancel_at_first_chunk(saved))
    assert workers_running() == set()


def test_damage_is_found_by_the_workers(folder: Path) -> None:
    saved = with_workers(Saved(folder, VARIED_TREE))
    path = saved.pipelines.chunk_file(saved.chunk_of(b"x large"))
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)
    with pytest.raises(DataLossError, match="1 chunks of"):
        saved.restore()
    assert saved.missing() == {"x large"}


def save_again(saved: Saved) -> None:
    """Saves the workspace anew, reading and storing everything, and restores that."""
    saved.pipelines.repository.delete_snapshot(saved.id)
    saved.id = saved.pipelines.snapshot(os.fsencode(saved.workspace), large_file_size=LARGE).snapshot_id
    saved.restore()
    assert saved.differences() == []


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_everything_is_saved(folder: Path, workers: int) -> None:
    save_again(with_workers(Saved(folder, VARIED_TREE), workers))


def test_the_chunk_of_a_killed_worker_is_built_by_another(folder: Path) -> None:
    saved = with_workers(Saved(folder, MANY))
    killed = kill_at_chunks(saved, {1, 100})
    save_again(saved)
    assert killed


def test_workers_that_always_die_fail_the_snapshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = with_workers(Saved(folder, MANY))
    saved.pipelines.repository.delete_snapshot(saved.id)
    monkeypatch.setenv("PYTHONMALLOC", "no such allocator")
    with pytest.raises(WorkerCrashedError, match="3 worker processes died over one chunk"):
        saved.pipelines.snapshot(os.fsencode(saved.workspace), large_file_size=LARGE)
    assert saved.pipelines.repository.snapshot_ids() == []


def test_a_cancelled_snapshot_ends_the_workers(folder: Path) -> None:
    saved = with_workers(Saved(folder, MANY))
    saved.pipelines.repository.delete_snapshot(saved.id)
    cancel = cancel_at_first_chunk(saved)
    with pytest.raises(CancelledError):
        saved.pipelines.snapshot(os.fsencode(saved.workspace), large_file_size=LARGE, cancel=cancel)
    assert workers_running() == set()
    assert saved.pipelines.repository.snapshot_ids() == []


def test_warnings_of_workers_reach_the_manifest(folder: Path) -> None:
    saved = with_workers(Saved(folder, [File(b"a", b"a"), File(b"b", b"b")]))

    class Events(list[PipelineEvent]):
        def append(self, event: PipelineEvent) -> None:
            super().append(event)
            # The only pack is built after the scan.
            if isinstance(event, ScanTotals):
                (saved.workspace / "a").unlink()

    (saved.workspace / "b").write_text("changed, so that the pack is built again")
    saved.pipelines.new_events = Events
    result = saved.pipelines.snapshot(os.fsencode(saved.workspace))
    warnings = saved.pipelines.repository.warnings(result.snapshot_id, 10)
    assert [(warning.reason, warning.path) for warning in warnings] == [("FILE_VANISHED", b"a")]
    assert saved.pipelines.warned() == {"FILE_VANISHED": {b"a"}}


@pytest.mark.parametrize("seed", range(6))
def test_a_worker_that_is_killed_while_it_copies_within_the_target(
    folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had written of a pack may have taken the place of what the pack was built from."""
    chance = random.Random(seed)
    small = [File(b"%d/small-%03d" % (number % 2, number), Seeded(4000, seed=number)) for number in range(400)]
    saved = with_workers(Saved(folder, [*small, *MANY]))
    saved.restore()
    for one, other in ((b"0", b"1"), *((b"large-%03d" % number, b"large-%03d" % (number + 1)) for number in range(99))):
        swap(saved.target / os.fsdecode(one), saved.target / os.fsdecode(other))
    for number in range(100):
        os.utime(saved.target / f"large-{number:03}")
    # A chunk over which three processes die is given up.
    tasks = {0, chance.randrange(1, 60)}
    killed: list[int] = []
    done = itertools.count()
    do = Hands.do

    def kill() -> None:
        for pid in workers_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    def do_and_kill(self: Hands, hand: Hand, task: LocalTask) -> Written:
        if isinstance(task, PackBuild | SegmentCopy) and next(done) in tasks:
            threading.Timer(chance.random() * 0.02, kill).start()
        return do(self, hand, task)

    monkeypatch.setattr(Hands, "do", do_and_kill)
    saved.restore(IfNotEmpty.MIRROR)
    assert saved.differences() == []
    assert killed


def swap(one: Path, other: Path) -> None:
    one.rename(one.with_name("moved"))
    other.rename(one)
    one.with_name("moved").rename(other)
