"""What an interrupted snapshot has stored the next one finds, and relies on only as long as no prune may remove it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import CancelledError, DataLossError
from agent.events import Begun, ChunkFinished, ChunkKind, OperationResult, PipelineEvent
from agent.repository import keys
from agent.repository.grace import Grace
from agent.snapshot import found as found_module
from agent.snapshot.interrupted import OLD_SECONDS, YOUNG_SECONDS, Marker
from agent.storage.directory import DirectoryStore
from agent.storage.store import ObjectInfo
from tests.support import forging
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.trees import compare

FILES = 24
SIZE = 6000
"""Bytes of each file, which is one segment."""


class StopsAfter(list[PipelineEvent]):
    """Events of an operation that is cancelled once so many segments are stored."""

    def __init__(self, segments: int) -> None:
        super().__init__()
        self.cancel = threading.Event()
        self._left = segments

    def append(self, event: PipelineEvent) -> None:
        super().append(event)
        if isinstance(event, ChunkFinished) and event.kind is ChunkKind.SEGMENT:
            self._left -= 1
            if self._left == 0:
                self.cancel.set()


class Saved:
    """A workspace and a local repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "workspace"
        self.path.mkdir()
        for number in range(FILES):
            (self.path / f"{number}.bin").write_bytes(os.urandom(SIZE))
        self.pipelines = Pipelines(folder)
        self.pipelines.transfer = msgspec.structs.replace(self.pipelines.transfer, workers=2, connections=2)

    def interrupt(self, segments: int = FILES // 2) -> set[str]:
        """Begins a snapshot that is ended in the middle; returns the chunks that it has stored."""
        events = StopsAfter(segments)
        self.pipelines.new_events = lambda: events
        with pytest.raises(CancelledError):
            self.pipelines.snapshot(os.fsencode(self.path), large_file_size=SIZE, cancel=events.cancel)
        self.pipelines.new_events = list
        return {event.chunk_id for event in events if isinstance(event, ChunkFinished)}

    def save(self, path: Path | None = None, former: str = "") -> OperationResult:
        """Makes a snapshot."""
        return self.pipelines.snapshot(os.fsencode(path or self.path), large_file_size=SIZE, former=former)

    @property
    def moved(self) -> set[str]:
        """The chunks that the last snapshot uploaded."""
        events = self.pipelines.events
        return {event.chunk_id for event in events if isinstance(event, ChunkFinished) and not event.reused}

    @property
    def markers(self) -> list[Path]:
        """The markers in the store."""
        folder = self.pipelines.store_folder / keys.RUNNING
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def age(self, path: Path, seconds: int) -> None:
        """Makes an object of the store older."""
        then = path.stat().st_mtime_ns - seconds * 10**9
        os.utime(path, ns=(then, then))

    def stored(self) -> list[Path]:
        """Returns the files of all chunks."""
        return [path for path in (self.pipelines.store_folder / "chunks").rglob("*") if path.is_file()]

    def check(self, result: OperationResult) -> None:
        """Makes sure that a snapshot restores to the workspace."""
        target = self.folder / "target"
        self.pipelines.restore(os.fsencode(target), result.snapshot_id)
        assert compare(os.fsencode(self.path), os.fsencode(target)) == []


@pytest.fixture(autouse=True)
def _ages_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's ctime, by which a store in a folder goes too, is the kernel's alone."""
    monkeypatch.setattr("agent.storage.directory.modified_ns", lambda facts: facts.st_mtime_ns)


@pytest.fixture
def saved() -> Iterator[Saved]:
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-interrupted-", dir=memory_folder()))
    yield Saved(folder)
    shutil.rmtree(folder)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of the store was listed."""
    prefixes: list[str] = []
    really_list = DirectoryStore.list

    def spy(store: DirectoryStore, prefix: str) -> Iterator[object]:
        prefixes.append(prefix)
        return really_list(store, prefix)

    monkeypatch.setattr(DirectoryStore, "list", spy)
    return prefixes


@pytest.mark.parametrize("page", [1, 5, 1000])
def test_what_was_stored_is_not_moved_again(saved: Saved, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(found_module, "LISTED_AT_ONCE", page)
    before = saved.interrupt()
    assert len(before) >= FILES // 2
    assert len(saved.markers) == 1
    there = len(saved.stored())
    result = saved.save()
    assert not saved.moved & before
    # What was on its way, and had come there without being confirmed to anybody, is found as well.
    assert len(saved.moved) == len({chunk.id for chunk in saved.pipelines.chunks(result.snapshot_id)}) - there
    assert saved.markers == []
    saved.check(result)


def test_nothing_is_moved_before_the_listing_has_passed_it(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.interrupt()
    asked = threading.Event()
    really_list, really_ask = DirectoryStore.list, found_module.FoundChunks.size

    def late(store: DirectoryStore, prefix: str) -> Iterator[ObjectInfo]:
        assert prefix != keys.CHUNKS or asked.wait(60)
        return really_list(store, prefix)

    def ask(found: found_module.FoundChunks, chunk_id: bytes, raw_size: int) -> int | None:
        asked.set()
        return really_ask(found, chunk_id, raw_size)

    monkeypatch.setattr(DirectoryStore, "list", late)
    monkeypatch.setattr(found_module.FoundChunks, "size", ask)
    saved.save()
    assert not saved.moved & before


def test_another_machine_finds_it_too(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.interrupt()
    copy = saved.folder / "elsewhere"
    shutil.copytree(saved.path, copy)
    monkeypatch.setattr(socket, "gethostname", lambda: "another-machine")
    result = saved.save(copy)
    assert not saved.moved & before
    # The first machine may come back.
    [marker] = saved.markers
    assert msgspec.json.decode(marker.read_bytes(), type=Marker).workspace == os.fsencode(saved.path)
    saved.check(result)


def test_a_snapshot_after_one_that_was_committed_lists_no_chunks(saved: Saved, listed: list[str]) -> None:
    first = saved.save()
    (saved.path / "0.bin").write_bytes(os.urandom(SIZE))
    saved.save()
    assert keys.CHUNKS not in listed
    # A marker that its snapshot did not come to remove.
    marker = saved.pipelines.store_folder / keys.running(first.snapshot_id)
    marker.parent.mkdir(exist_ok=True)
    marker.write_text("{}")
    saved.save()
    assert keys.CHUNKS not in listed
    assert saved.markers == []


def test_old_chunks_are_moved_again(saved: Saved) -> None:
    before = saved.interrupt()
    for path in saved.stored():
        saved.age(path, YOUNG_SECONDS)
    result = saved.save()
    assert before <= saved.moved
    saved.check(result)


@pytest.mark.parametrize(("age", "stays"), [(YOUNG_SECONDS, True), (OLD_SECONDS, False)])
def test_old_markers_stand_for_nothing_and_are_removed(saved: Saved, listed: list[str], age: int, stays: bool) -> None:
    saved.interrupt()
    [marker] = saved.markers
    saved.age(marker, age)
    saved.save()
    assert keys.CHUNKS not in listed
    assert marker.exists() == stays


@pytest.mark.parametrize("size", [0, 20_000])
def test_an_object_that_cannot_be_the_chunk_is_stored_again(saved: Saved, size: int) -> None:
    before = saved.interrupt()
    for path in saved.stored():
        os.truncate(path, size)
    result = saved.save()
    assert before <= saved.moved
    saved.check(result)


def test_a_grace_that_differs_at_two_readings_ends_a_snapshot(saved: Saved) -> None:
    """It says for how long a snapshot may rely on what it finds, and a bit may have flipped in it on the way."""
    first = saved.save()

    class Changes(list[PipelineEvent]):
        def append(self, event: PipelineEvent) -> None:
            super().append(event)
            if isinstance(event, Begun):
                forging.set_grace(saved.pipelines.repository.store, Grace(7 * 86400))

    saved.pipelines.new_events = Changes
    with pytest.raises(DataLossError, match=r"86400 seconds.*604800"):
        saved.save()
    assert saved.pipelines.repository.list_snapshots(9)[0].id == first.snapshot_id
    saved.pipelines.new_events = list
    saved.check(saved.save())


def test_a_run_that_died_right_after_its_commit_is_not_repeated(saved: Saved) -> None:
    first = saved.save()
    again = saved.save(former=first.snapshot_id)
    assert again.snapshot_id == first.snapshot_id
    assert (again.chunks, again.totals, again.raw_bytes) == (first.chunks, first.totals, first.raw_bytes)
    other = saved.save(former="20261123T110512Z-4f2a9c01")
    assert other.snapshot_id > first.snapshot_id
