"""Restores that are killed and then repeated: what was confirmed is not fetched again."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import CancelledError
from agent.events import ChunkFinished, ChunkKind, OperationResult, PipelineEvent
from agent.repository.model import SEGMENT_SIZE
from agent.restore.large_files import unfinished_name
from agent.restore.origin import FILE_NAME, Origin
from agent.restore.request import IfNotEmpty
from tests.support.children import run_python
from tests.support.pipelines import leftovers, memory_folder
from tests.support.saved import Saved
from tests.support.trees import File, HardLink, Node, Seeded, build, facts

SIZE = SEGMENT_SIZE + 5000
ORIGIN = os.fsdecode(FILE_NAME)

MODEL: list[Node] = [
    File(b"model", Seeded(SIZE, compressible=True)),
    File(b"dir/small", b"small"),
    HardLink(b"dir/too", b"dir/small"),
]

KILLED = """
import os, signal, sys
from pathlib import Path
import msgspec
from agent.events import ChunkFinished
from tests.support.pipelines import Pipelines

class Events(list):
    left = int(sys.argv[4])

    def append(self, event):
        if isinstance(event, ChunkFinished):
            os.write(1, event.chunk_id.encode() + b"\\n")
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

pipelines = Pipelines.reopen(Path(sys.argv[1]))
pipelines.transfer = msgspec.structs.replace(pipelines.transfer, workers=int(sys.argv[5]))
pipelines.new_events = Events
pipelines.restore(os.fsencode(sys.argv[2]), sys.argv[3])
"""


def restore_and_kill(saved: Saved, chunks: int, workers: int = 1) -> set[str]:
    """Restores in a process that is killed once so many chunks are confirmed; returns these."""
    confirmed = run_python(KILLED, saved.folder, saved.target, saved.id, chunks, workers, status=-signal.SIGKILL)
    return set(confirmed.decode().split())


def again(saved: Saved, workers: int = 1) -> set[str]:
    """Repeats the restore; returns the chunks that were fetched. The target is then as the workspace was."""
    pipelines = saved.pipelines
    pipelines.transfer = msgspec.structs.replace(pipelines.transfer, workers=workers)
    result: OperationResult = pipelines.restore(os.fsencode(saved.target), saved.id, if_not_empty=IfNotEmpty.OVERWRITE)
    assert saved.differences() == []
    assert leftovers(os.fsencode(saved.target)) == []
    fetched = pipelines.moved()
    assert result.chunks_transferred == len(fetched)
    return fetched


@pytest.fixture(scope="module")
def shared() -> Iterator[Saved]:
    path = Path(tempfile.mkdtemp(prefix="gpusnap-again-", dir=memory_folder()))
    yield Saved(path, MODEL)
    shutil.rmtree(path)


@pytest.fixture
def saved(shared: Saved) -> Iterator[Saved]:
    """A saved workspace with a target of its own."""
    shared.target = shared.folder / "target"
    shared.pipelines.new_events = list
    yield shared
    shutil.rmtree(shared.target, ignore_errors=True)


def work_folder(saved: Saved) -> Path:
    [found] = saved.target.glob(".gpusnap-restore-*")
    return found


def unfinished(saved: Saved) -> Path:
    return work_folder(saved) / os.fsdecode(unfinished_name(b"model"))


def confirmed_segments(saved: Saved) -> set[str]:
    """Kills a restore when one segment of the model and nothing else can be complete; returns it."""
    segments = {chunk.id.hex() for chunk in saved.chunks[saved.entries[b"model"].chunk + 1 :][:2]}
    for chunks in (1, 2, 1, 2):
        confirmed = restore_and_kill(saved, chunks) & segments
        if len(confirmed) == 1:
            break
        shutil.rmtree(saved.target)
    assert unfinished(saved).stat().st_size == SIZE
    return confirmed


def test_segments_that_were_confirmed_are_not_fetched_again(saved: Saved) -> None:
    confirmed = confirmed_segments(saved)
    fetched = again(saved)
    assert fetched
    assert not fetched & confirmed


@pytest.mark.parametrize("is_whole", [False, True])
def test_what_was_confirmed_counts_as_there_once(saved: Saved, is_whole: bool) -> None:
    [confirmed] = confirmed_segments(saved)
    is_first = confirmed == saved.chunk_of(b"model").id.hex()
    expected = SEGMENT_SIZE if is_first else SIZE - SEGMENT_SIZE
    if is_whole:
        # Its time does not tell that it is the model.
        shutil.copyfile(saved.workspace / "model", saved.target / "model")
        expected = SIZE
    small = saved.target / "dir/small"
    expected += small.stat().st_size if small.exists() else 0
    result = saved.pipelines.restore(os.fsencode(saved.target), saved.id, if_not_empty=IfNotEmpty.OVERWRITE)
    assert result.present is not None
    assert (result.present.kept_bytes, result.present.copied_bytes) == (expected, 0)


def test_what_was_confirmed_does_not_vouch_for_what_is_there(saved: Saved) -> None:
    [confirmed] = confirmed_segments(saved)
    is_first = confirmed == saved.chunk_of(b"model").id.hex()
    shutil.copyfile(saved.workspace / "model", saved.target / "model")
    with (saved.target / "model").open("r+b") as file:
        file.seek(SEGMENT_SIZE if is_first else 0)
        file.write(b"changed")
    assert confirmed not in again(saved)


def test_after_a_cancel_there_is_nothing_to_go_on_with(saved: Saved) -> None:
    cancel = threading.Event()
    segments = {chunk.id.hex() for chunk in saved.chunks if chunk.kind is ChunkKind.SEGMENT}

    class Events(list[PipelineEvent]):
        def append(self, event: PipelineEvent) -> None:
            if isinstance(event, ChunkFinished) and event.chunk_id in segments:
                cancel.set()

    saved.pipelines.new_events = Events
    saved.pipelines.transfer = msgspec.structs.replace(saved.pipelines.transfer, workers=1)
    with pytest.raises(CancelledError):
        saved.restore(cancel=cancel)
    assert not (saved.target / "model").exists()


def test_after_a_cancel_nothing_stays_of_a_killed_restore_either(saved: Saved) -> None:
    confirmed_segments(saved)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        saved.restore(IfNotEmpty.OVERWRITE, cancel=cancel)


def test_another_operation_takes_the_work_over(saved: Saved) -> None:
    confirmed = confirmed_segments(saved)
    folder = work_folder(saved)
    folder.rename(folder.with_name(".gpusnap-restore-of-another"))
    # Its own is there too, but says nothing.
    build(os.fsencode(folder), [File(b"rest", b"x")])
    assert not again(saved) & confirmed


def test_what_a_crash_left_is_not_trusted(saved: Saved) -> None:
    confirmed_segments(saved)
    with unfinished(saved).open("r+b") as file:
        for place in (SEGMENT_SIZE // 2, SEGMENT_SIZE + 10):
            file.seek(place)
            file.write(b"wrong")
    again(saved)


def test_content_of_another_file_is_not_trusted_either() -> None:
    with tempfile.TemporaryDirectory(prefix="gpusnap-again-", dir=memory_folder()) as path:
        saved = Saved(Path(path), [*MODEL, File(b"other", Seeded(SIZE - SEGMENT_SIZE, seed=9))])
        for chunks in (1, 2, 1, 2):
            restore_and_kill(saved, chunks)
            if unfinished(saved).exists():
                break
            shutil.rmtree(saved.target)
        with unfinished(saved).open("r+b") as file:
            file.seek(SEGMENT_SIZE)
            file.write((saved.workspace / "other").read_bytes())
        (saved.target / "other").unlink(missing_ok=True)
        again(saved)


def test_the_work_for_another_snapshot_is_removed(saved: Saved) -> None:
    confirmed = confirmed_segments(saved)
    origin = work_folder(saved) / ORIGIN
    told = msgspec.json.decode(origin.read_bytes(), type=Origin)
    origin.write_bytes(msgspec.json.encode(msgspec.structs.replace(told, snapshot="20200101T000000Z-00000000")))
    assert confirmed <= again(saved)


@pytest.mark.parametrize("damage", ["missing", "empty", "link", "others may write"])
def test_a_folder_that_does_not_say_what_it_is_is_removed(saved: Saved, damage: str) -> None:
    confirmed = confirmed_segments(saved)
    origin = work_folder(saved) / ORIGIN
    if damage == "missing":
        origin.unlink()
    elif damage == "empty":
        os.truncate(origin, 0)
    elif damage == "link":
        origin.rename(saved.outside / "told")
        origin.symlink_to(saved.outside / "told")
    else:
        work_folder(saved).chmod(0o775)
    assert confirmed <= again(saved)


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "directory"])
def test_nothing_outside_is_written_through_what_was_planted(saved: Saved, kind: str) -> None:
    confirmed_segments(saved)
    path, outside = unfinished(saved), saved.outside / "planted"
    with outside.open("wb") as file:
        file.truncate(SIZE)
    before = facts(os.fsencode(saved.outside))
    path.unlink()
    if kind == "link":
        path.symlink_to(outside)
    elif kind == "hard link":
        path.hardlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        build(os.fsencode(path), [File(b"x", b"x")])
    again(saved)
    assert facts(os.fsencode(saved.outside)) == before
    assert outside.stat().st_blocks == 0
    assert stat.S_ISREG((saved.target / "model").lstat().st_mode)
    outside.unlink()


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "unreadable"])
def test_after_a_reboot_times_are_not_trusted(saved: Saved, is_told: bool) -> None:
    """What a killed restore wrote is not synced: a power failure leaves sizes and times without the content."""
    restore_and_kill(saved, 3)
    origin = work_folder(saved) / ORIGIN
    told = msgspec.json.decode(origin.read_bytes(), type=Origin)
    before_reboot = msgspec.json.encode(msgspec.structs.replace(told, boot="an earlier one"))
    origin.write_bytes(before_reboot if is_told else before_reboot[:-1])
    for path in (saved.target / "dir/small", saved.target / "model"):
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again(saved)


@pytest.mark.parametrize(("chunks", "workers"), [(1, 2), (40, 1), (70, 2), (101, 2)])
def test_a_restore_of_many_files_killed_anywhere(chunks: int, workers: int) -> None:
    nodes: list[Node] = [File(b"large-%03d" % number, Seeded(6000, seed=number)) for number in range(100)]
    nodes += [File(b"dir-%d/small-%03d" % (number % 7, number), b"%d" % number) for number in range(300)]
    with tempfile.TemporaryDirectory(prefix="gpusnap-again-", dir=memory_folder()) as path:
        saved = Saved(Path(path), nodes)
        total = len({chunk.id for chunk in saved.chunks if chunk.kind.value in ("pack", "segment")})
        confirmed = restore_and_kill(saved, min(chunks, total), workers)
        fetched = again(saved, workers)
        assert not fetched & confirmed
        # What a worker wrote just before may have come without a confirmation.
        assert total - workers < len(fetched) + len(confirmed) <= total
