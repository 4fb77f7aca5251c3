"""Snapshots whose segments are read again while they are sent: what changes meanwhile is saved all the same."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.config.model import EngineChoice
from agent.errors import CancelledError
from agent.events import OperationResult
from agent.repository.model import SEGMENT_SIZE
from agent.snapshot import parent
from agent.snapshot.large_file import LargeFile
from agent.snapshot.segment_source import SegmentSource
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, Seen
from tests.support.seaweed import SeaweedServer
from tests.support.sending import prefer_sources
from tests.support.trees import File, Node, Seeded, Sparse, build, compare

LARGE = 1
"""A threshold with which every file is a large one."""

NODES: list[Node] = [
    File(b"a", Seeded(9216)),
    File(b"m", Seeded(20_480, seed=1)),
    File(b"text", b"text " * 2000),
    File(b"z", Seeded(1023, seed=2)),
]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends whatever can be sent from files, and takes files that were just written as old ones."""
    prefer_sources(monkeypatch)
    monkeypatch.setattr(parent, "RACY_NS", -(10**18))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-sent-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


class Sent:
    """A workspace whose large files are sent from themselves.

    Attributes:
        sources: what was sent, by path.
        before: called with the path before a source is read, however often.
    """

    def __init__(
        self, folder: Path, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch, engine: str
    ) -> None:
        self._folder = folder
        self.workspace = folder / "workspace"
        self.sources: list[bytes] = []
        self.before: Callable[[bytes], object] = lambda path: None
        self.pipelines = Pipelines(folder, seaweed.storage_config(bucket, ""))
        self.pipelines.transfer = msgspec.structs.replace(self.pipelines.transfer, engine=EngineChoice(engine))
        pieces, made = SegmentSource.pieces, SegmentSource.__init__

        def note(source: SegmentSource, *arguments: object) -> None:
            made(source, *arguments)  # type: ignore[arg-type]
            self.sources.append(source._entry.path)

        def read(source: SegmentSource) -> Iterator[memoryview]:
            self.before(source._entry.path)
            yield from pieces(source)

        monkeypatch.setattr(SegmentSource, "__init__", note)
        monkeypatch.setattr(SegmentSource, "pieces", read)

    def save(self, nodes: list[Node]) -> OperationResult:
        build(os.fsencode(self.workspace), nodes)
        return self.save_again()

    def save_again(self) -> OperationResult:
        self.sources.clear()
        return self.pipelines.snapshot(os.fsencode(self.workspace), large_file_size=LARGE)

    def check(self, saved: OperationResult) -> None:
        """Makes sure that a snapshot is what the workspace is now, and that the next one finds nothing new."""
        target = os.fsencode(self._folder / f"target-{saved.snapshot_id}")
        self.pipelines.restore(target, saved.snapshot_id)
        assert compare(os.fsencode(self.workspace), target) == []


@pytest.fixture
def sent(
    request: pytest.FixtureRequest, folder: Path, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Sent:
    """With ``stream``, or with the engine that the test asks for."""
    return Sent(folder, seaweed, bucket, monkeypatch, getattr(request, "param", "stream"))


with_both = pytest.mark.parametrize("sent", ["stream", "auto"], indirect=True)


@with_both
def test_large_files_are_saved(sent: Sent) -> None:
    nodes = [*NODES, File(b"two segments", Seeded(SEGMENT_SIZE + 5120, seed=3)), File(b"holes", HOLES)]
    saved = sent.save(nodes)
    assert sorted(sent.sources) == [b"a", b"m", b"two segments", b"two segments", b"z"], "neither text nor holes"
    assert saved.warnings == 0
    sent.check(saved)
    again = sent.save_again()
    assert (again.unchanged_files, again.chunks_transferred, sent.sources) == (len(nodes), 0, [])


HOLES = Sparse(1 << 20, ((8192, 4096),))


def rewrite(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


CHANGES: dict[str, Callable[[Path], object]] = {
    "the same size": rewrite,
    "grown": lambda path: path.write_bytes(os.urandom(40_960)),
    "cut": lambda path: os.truncate(path, 512),
    "empty": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("when", [1, 2], ids=["first reading", "second reading"])
def test_a_file_that_changes_before_it_is_sent_is_read_anew(
    sent: Sent, when: int, change: Callable[[Path], object]
) -> None:
    """The first reading is for the checksum of what is sent over http."""
    readings: list[bytes] = []

    def before(path: bytes) -> None:
        readings.append(path)
        if path == b"m" and readings.count(path) == when:
            change(sent.workspace / "m")

    sent.before = before
    saved = sent.save(NODES)
    assert sorted(sent.sources) == [b"a", b"m", b"z"], "what is read anew is held"
    assert sent.pipelines.warned() == {}, "it was left alone while it was read anew"
    sent.check(saved)


def test_a_file_that_is_only_touched_before_it_is_sent_is_not_read_anew(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, settled = LargeFile.settle, set[bytes]()

    def note(file: LargeFile) -> None:
        settle(file)
        settled.add(file.entry.path)

    monkeypatch.setattr(LargeFile, "settle", note)
    build(os.fsencode(sent.workspace), NODES)
    old = (sent.workspace / "m").stat().st_mtime_ns
    readings: list[bytes] = []

    def before(path: bytes) -> None:
        readings.append(path)
        if path == b"m":
            wait_until(lambda: b"m" in settled, "it to be read")
            os.utime(sent.workspace / "m")

    sent.before = before
    saved = sent.save_again()
    assert saved.warnings == 0
    assert readings.count(b"m") == 2
    target = sent.workspace.parent / "target"
    sent.pipelines.restore(os.fsencode(target), saved.snapshot_id)
    assert (target / "m").read_bytes() == (sent.workspace / "m").read_bytes()
    assert (target / "m").stat().st_mtime_ns == old
    assert sent.save_again().unchanged_files == len(NODES) - 1


def test_a_file_that_is_lost_just_when_it_was_read_is_read_anew(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    settle, ends = LargeFile.settle, LargeFile.sending_ends
    lost = threading.Event()

    def end(file: LargeFile, *, is_lost: bool) -> None:
        ends(file, is_lost=is_lost)
        if is_lost:
            lost.set()

    def wait(file: LargeFile) -> None:
        settle(file)
        if file.entry.path == b"m" and file.attempt == 1:
            may_change.set()
            assert lost.wait(30)

    def before(path: bytes) -> None:
        if path == b"m":
            assert may_change.wait(30)
            rewrite(sent.workspace / "m")

    may_change = threading.Event()
    monkeypatch.setattr(LargeFile, "sending_ends", end)
    monkeypatch.setattr(LargeFile, "settle", wait)
    sent.before = before
    saved = sent.save(NODES)
    assert saved.warnings == 0
    sent.check(saved)


def rewriting_once(sent: Sent, name: bytes) -> Callable[[bytes], object]:
    """Returns what rewrites a file just before it is sent, the first time."""
    changes = [name]

    def before(path: bytes) -> None:
        if path in changes:
            changes.remove(path)
            rewrite(sent.workspace / os.fsdecode(name))

    return before


@with_both
def test_one_of_several_segments_that_is_lost_has_all_read_anew(sent: Sent) -> None:
    nodes = [*NODES, File(b"long", Seeded(2 * SEGMENT_SIZE, seed=3))]
    sent.before = rewriting_once(sent, b"long")
    saved = sent.save(nodes)
    assert saved.warnings == 0
    sent.check(saved)


@with_both
def test_whoever_has_the_same_content_does_not_rely_on_what_is_lost(sent: Sent) -> None:
    same = Seeded(20_480, seed=1)
    sent.before = rewriting_once(sent, b"first")
    saved = sent.save([File(b"first", same), File(b"second", same), File(b"third", same)])
    assert saved.warnings == 0
    sent.check(saved)


def test_the_same_content_is_sent_once(sent: Sent) -> None:
    same = Seeded(20_480, seed=1)
    saved = sent.save([File(f"{number}".encode(), same) for number in range(12)])
    assert len(sent.sources) <= 2, "of two that come at once, one may be made in vain"
    sent.check(saved)


def test_without_descriptors_chunks_are_held(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(SegmentSource, "__init__", fail)
    saved = sent.save(NODES)
    assert saved.warnings == 0
    sent.check(saved)


def test_a_cancel_ends_it(sent: Sent) -> None:
    cancel = threading.Event()
    sent.before = lambda path: cancel.set()
    build(os.fsencode(sent.workspace), NODES)
    with pytest.raises(CancelledError):
        sent.pipelines.snapshot(os.fsencode(sent.workspace), large_file_size=LARGE, cancel=cancel)
    sent.before = lambda path: None
    sent.check(sent.save_again())


def test_it_survives_a_bad_link(
    folder: Path, seaweed: SeaweedServer, bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Sent(folder, seaweed, bucket, monkeypatch, "stream")
    sent.pipelines.storage = msgspec.structs.replace(sent.pipelines.storage, endpoint=proxy.endpoint)
    puts: list[str] = []

    def script(seen: Seen) -> Fault | None:
        if seen.method != "PUT" or "/chunks/" not in seen.path:
            return None
        puts.append(seen.path)
        return Fault(reset_after=300) if puts.count(seen.path) == 1 else None

    proxy.script = script
    saved = sent.save(NODES)
    assert len(puts) >= 6
    sent.check(saved)
