"""Files that change after the scan or while they are read are saved as last read, with a warning if they were torn."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from agent.events import OperationResult
from agent.repository.model import Entry
from agent.snapshot import builder, parent, plan, run, source
from agent.snapshot.plan import Planned
from agent.snapshot.source import READ_ATTEMPTS
from agent.snapshot.unchanged import UnchangedRun
from tests.support.children import needs_root
from tests.support.daemon import Daemon
from tests.support.gpusnap import Gpusnap
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.trees import File, HardLink, Node, Seeded, build, compare

LARGE, SMALL = 1, 1 << 30
"""Thresholds with which every file is a large one, and none."""

NODES: list[Node] = [
    File(b"a", Seeded(9000)),
    File(b"m", Seeded(20_000, seed=1)),
    HardLink(b"other name", b"m"),
    File(b"z", b"z" * 600),
]


@pytest.fixture(params=[LARGE, SMALL], ids=["large", "small"])
def threshold(request: pytest.FixtureRequest) -> int:
    threshold: int = request.param
    return threshold


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes files that were just written as old ones, so that a second snapshot reads only what is not sure."""
    monkeypatch.setattr(parent, "RACY_NS", -(10**18))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-changing-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


class Changing:
    """A workspace whose file "m" changes in the middle of its first snapshot.

    Attributes:
        warned: the paths that the last snapshot warned of, by reason.
    """

    warned: Mapping[str, set[bytes]]

    def __init__(self, folder: Path, threshold: int) -> None:
        self._folder = folder
        self._threshold = threshold
        self.workspace = folder / "workspace"
        self.file = self.workspace / "m"
        build(os.fsencode(self.workspace), NODES)
        self.pipelines = Pipelines(folder)

    def save(self) -> OperationResult:
        saved = self.pipelines.snapshot(os.fsencode(self.workspace), large_file_size=self._threshold)
        self.warned = self.pipelines.warned()
        return saved

    def restored(self, saved: OperationResult) -> Path:
        """Restores a snapshot and makes sure that its archive is well formed."""
        target = self._folder / f"target-{saved.snapshot_id}"
        self.pipelines.restore(os.fsencode(target), saved.snapshot_id)
        for name in ("a", "z"):
            assert (target / name).read_bytes() == (self.workspace / name).read_bytes()
        listed = self.pipelines.store_folder / "snapshots" / saved.snapshot_id / "chunks.txt"
        command = f'while read key; do cat "{self.pipelines.store_folder}/$key"; done < {listed} | lz4 -dc | tar -t'
        subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=30)
        return target

    def check_next(self, unsure: int) -> None:
        """Makes sure that the next snapshot has the truth, for which it reads as many files as were not sure."""
        second = self.save()
        assert self.warned == {}
        assert compare(os.fsencode(self.workspace), os.fsencode(self.restored(second))) == []
        if self._threshold == LARGE:
            assert second.totals.files - second.unchanged_files == unsure
        third = self.save()
        assert third.unchanged_files == third.totals.files


def after_the_scan(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Lets the next snapshots plan, and so read, only once the scan is over and ``change`` was made, once."""
    changes = [change]

    def planned(found: Iterable[Entry | UnchangedRun], large_file_size: int) -> Iterator[Planned]:
        scanned = list(found)
        while changes:
            changes.pop()()
        return plan.plan(scanned, large_file_size)

    monkeypatch.setattr(run, "plan", planned)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"another file" * 1000)
    other.replace(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("a")


SAVED: dict[str, Callable[[Path], object]] = {
    "the same size": lambda path: path.write_bytes(b"n" * 20_000),
    "shrunk": lambda path: path.write_bytes(b"n"),
    "empty": lambda path: os.truncate(path, 0),
    "grown": lambda path: path.write_bytes(b"n" * 3_000_000),
    "a hole": lambda path: os.truncate(path, 1 << 20),
    "a mode": lambda path: path.chmod(0o600),
    "an attribute": lambda path: os.setxattr(path, "user.new", b"value"),
}


@pytest.mark.parametrize("case", SAVED)
def test_a_file_that_changed_after_the_scan_is_saved_as_it_is(
    folder: Path, threshold: int, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = Changing(folder, threshold)
    after_the_scan(monkeypatch, lambda: SAVED[case](changing.file))
    target = changing.restored(changing.save())
    assert changing.warned == {}
    for name in ("m", "other name"):
        assert (target / name).read_bytes() == changing.file.read_bytes()
    assert (target / "m").stat().st_mode == changing.file.stat().st_mode
    changing.check_next(unsure=1)


def test_a_file_that_was_replaced_after_the_scan_is_not_what_its_other_names_lead_to(
    folder: Path, threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = Changing(folder, threshold)
    after_the_scan(monkeypatch, lambda: replace(changing.file))
    target = changing.restored(changing.save())
    assert changing.warned == {"FILE_VANISHED": {b"other name"}}
    assert (target / "m").read_bytes() == changing.file.read_bytes()
    assert not (target / "other name").exists()
    changing.check_next(unsure=2)


GONE: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (Path.unlink, "FILE_VANISHED"),
    "a folder": (to_folder, "FILE_VANISHED"),
    "a pipe": (to_pipe, "FILE_VANISHED"),
    "a link": (to_link, "FILE_UNREADABLE"),
}


@pytest.mark.parametrize("case", GONE)
def test_a_file_that_is_gone_after_the_scan_is_a_warning(
    folder: Path, threshold: int, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, reason = GONE[case]
    changing = Changing(folder, threshold)
    after_the_scan(monkeypatch, lambda: change(changing.file))
    saved = changing.save()
    kept = changing.pipelines.repository.warnings(saved.snapshot_id, 9)
    warned = {(warning.reason, warning.path) for warning in kept}
    assert warned == {(reason, b"m"), ("FILE_VANISHED", b"other name")}
    assert saved.warnings == 2
    assert sorted(os.listdir(changing.restored(saved))) == ["a", "z"]
    changing.check_next(unsure=1)


def while_read(
    monkeypatch: pytest.MonkeyPatch, changing: Changing, times: int, data: Callable[[int], bytes]
) -> list[int]:
    """Writes "m" anew each time before it is read, so often; returns the list of these times."""
    seen: list[int] = []
    read = source.read_content

    def read_and_change(fd: int, entry: Entry, start: int, out: memoryview) -> int:
        if entry.path == b"m" and len(seen) < times:
            seen.append(len(seen) + 1)
            changing.file.write_bytes(data(seen[-1]))
            os.utime(changing.file, ns=(1, seen[-1]))  # quicker than the clock ticks
        return read(fd, entry, start, out)

    monkeypatch.setattr(builder, "read_content", read_and_change)
    return seen


SIZES: dict[str, Callable[[int], int]] = {
    "the same size": lambda number: 20_000,
    "shrinking": lambda number: 20_000 - 3000 * number,
    "growing": lambda number: 20_000 + 3000 * number,
    "now and then short": lambda number: 1 + number % 2 * 1000,
}


@pytest.mark.parametrize("sizes", SIZES)
def test_a_file_that_changes_while_it_is_read_is_read_again(
    folder: Path, threshold: int, sizes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = Changing(folder, threshold)
    times = READ_ATTEMPTS - 1
    seen = while_read(monkeypatch, changing, times, lambda number: b"%d" % number * SIZES[sizes](number))
    saved = changing.save()
    assert len(seen) == times
    assert changing.warned == {}
    assert (changing.restored(saved) / "m").read_bytes() == b"%d" % times * SIZES[sizes](times)
    changing.check_next(unsure=1)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_file_that_never_rests_is_saved_as_last_read_with_a_warning(
    folder: Path, threshold: int, sizes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = Changing(folder, threshold)
    seen = while_read(monkeypatch, changing, 1000, lambda number: b"%d" % number * SIZES[sizes](number))
    saved = changing.save()
    assert len(seen) == READ_ATTEMPTS
    assert changing.warned == {"FILE_CHANGED": {b"m"}}
    last = (changing.restored(saved) / "m").read_bytes()
    # Its size is that of before the last reading; what was missing then is zeros.
    size = SIZES[sizes](READ_ATTEMPTS - 1)
    assert last == (b"%d" % READ_ATTEMPTS * SIZES[sizes](READ_ATTEMPTS)).ljust(size, b"\0")[:size]
    seen += range(1000)  # it rests now
    changing.check_next(unsure=1)


class Scribbler:
    """Writes to a file all the time, in the background of a ``with`` block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Scribbler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        with self._path.open("r+b", buffering=0) as file:
            while not self._stop.is_set():
                file.seek(0)
                file.write(os.urandom(16))


def test_a_person_learns_of_files_that_change(daemon: Daemon, workspace: Path) -> None:
    gpusnap = Gpusnap(daemon.address)
    # Reading it takes longer than the clock of the file system takes for a tick.
    busy = workspace / "busy"
    busy.write_bytes(bytes(48 << 20))
    with Scribbler(busy):
        # One who gets no core to write on for a while leaves the file alone for as long as a reading takes.
        attempts = (gpusnap.run("snapshot", str(workspace)) for _ in range(10))
        ended = next(ended for ended in attempts if ended.code)
    assert ended.code == 3
    assert "warning: FILE_CHANGED: changed while it was read, and is stored as last read: busy" in ended.stderr
    assert ended.stderr.rstrip().endswith("1 warning")
    assert gpusnap.run("show", "latest").stdout.count("FILE_CHANGED") == 1
    again = gpusnap.run("snapshot", str(workspace))
    assert again.code == 0
    target = daemon.workspace_root / "target"
    assert gpusnap.run("restore", "latest", str(target)).code == 0
    assert compare(os.fsencode(workspace), os.fsencode(target)) == []


WRITE_ONLY = Path("/sys/bus/cpu/drivers_probe")
"""A file that the kernel lets nobody read, root neither."""


@needs_root
@pytest.mark.skipif(not WRITE_ONLY.exists(), reason="the kernel shows no file that root cannot read")
def test_a_person_learns_of_files_that_cannot_be_read(daemon_folder: Path) -> None:
    secret = daemon_folder / "ws/project/secret"
    script = f'mount --bind {WRITE_ONLY} "{secret}" && exec "$@"'
    daemon = Daemon(daemon_folder, under=("unshare", "-m", "sh", "-c", script, "sh"))
    build(os.fsencode(secret.parent), [File(b"open", b"x"), File(b"secret", b"x")])
    daemon.start()
    try:
        gpusnap = Gpusnap(daemon.address)
        for _ in range(2):  # also when the snapshot before has the rest
            ended = gpusnap.run("snapshot", str(secret.parent))
            assert ended.code == 3
            assert "FILE_UNREADABLE: could not be read and was not saved: Permission denied: secret" in ended.stderr
            assert ended.stderr.rstrip().endswith("1 warning")
            assert gpusnap.run("files", "latest", "--names").stdout.split() == [".", "open"]
            assert "FILE_UNREADABLE" in gpusnap.run("show", "latest").stdout
        with urllib.request.urlopen(daemon.metrics_url, timeout=10) as answer:
            metrics = answer.read().decode()
        assert 'gpusnap_warnings_total{operation="snapshot",reason="FILE_UNREADABLE"} 2.0' in metrics
        assert 'gpusnap_operations_total{operation="snapshot",result="succeeded_with_warnings"} 2.0' in metrics
    finally:
        daemon.close()
