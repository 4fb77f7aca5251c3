"""Snapshots with a lookout: they look at what has not changed no second time, and miss nothing if it dies."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import CancelledError
from agent.events import OperationResult
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.snapshot import parent
from agent.snapshot.look_ahead import MODULE, LookAhead, looking_ahead
from agent.snapshot.request import SnapshotRequest
from agent.snapshot.seen import Orders, Seen
from tests.support import pipelines
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.processes import processes_running
from tests.support.trees import File, Seeded, build

FOLDERS, FILES = 60, 40


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes files that were just written as old ones."""
    monkeypatch.setattr(parent, "RACY_NS", -(10**18))


class Workspace:
    """A workspace that was saved once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "workspace"
        files = [
            File(b"%03d/%03d" % (number, file), Seeded(200, seed=number * FILES + file))
            for number in range(FOLDERS)
            for file in range(FILES)
        ]
        build(os.fsencode(self.path), files)
        self.pipelines = Pipelines(folder)
        self.save()

    def save(self) -> OperationResult:
        return self.pipelines.snapshot(os.fsencode(self.path))


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-lookout-", dir=memory_folder()))
    saved = Workspace(folder)
    saved.pipelines.looks_ahead = True
    yield saved
    shutil.rmtree(folder)
    assert processes_running(MODULE) == set()


class Looks:
    """Counts what this process looks at in directories."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        look = os.stat

        def counted(path: bytes, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
            self.count += dir_fd is not None
            return look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

        monkeypatch.setattr(os, "stat", counted)


def test_what_has_not_changed_is_not_looked_at_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace.path / "007/003").write_text("changed")
    looks = Looks(monkeypatch)
    workspace.save()
    assert looks.count == 1
    workspace.pipelines.looks_ahead = False
    workspace.save()
    assert looks.count > FOLDERS * FILES


def test_a_file_that_changes_once_it_was_seen_is_in_the_next_snapshot(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = LookAhead.directory
    changed = workspace.path / "007/003"

    def change(self: LookAhead, path: bytes) -> Seen | None:
        seen = told(self, path)
        if path == b"007":
            changed.write_text("changed")
        return seen

    monkeypatch.setattr(LookAhead, "directory", change)
    before = workspace.save()
    monkeypatch.undo()
    monkeypatch.setattr(parent, "RACY_NS", 3_000_000_000)
    after = workspace.save()
    assert before.unchanged_files == FOLDERS * FILES
    assert after.totals.bytes == before.totals.bytes - 200 + len("changed")


@pytest.mark.parametrize("told", [0, 1, 20])
def test_a_lookout_that_dies_is_not_missed(workspace: Workspace, told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = LookAhead.directory
    asked: list[bytes] = []

    def ask(self: LookAhead, path: bytes) -> Seen | None:
        if len(asked) == told:
            for pid in processes_running(MODULE):
                os.kill(pid, signal.SIGKILL)
        asked.append(path)
        return directory(self, path)

    monkeypatch.setattr(LookAhead, "directory", ask)
    (workspace.path / "007/003").write_text("changed")
    (workspace.path / "059/039").unlink()
    result = workspace.save()
    assert len(asked) == FOLDERS + 1
    assert result.totals.files == FOLDERS * FILES - 1
    assert result.totals.bytes == 200 * (FOLDERS * FILES - 2) + len("changed")
    assert result.warnings == 0


@pytest.fixture
def program_that_stops(tmp_path: Path) -> str:
    """A Python that stops before it begins, which only a signal ends."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nkill -STOP $$\nexec {shlex.quote(sys.executable)} "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_one_that_never_goes_on_is_not_waited_for(
    workspace: Workspace, program_that_stops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def stopped(request: SnapshotRequest) -> Iterator[LookAhead]:
        root_fd = os.open(request.workspace, DIRECTORY_FLAGS)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", program_that_stops)
            ahead = LookAhead(root_fd, Orders((), (), False, False), silence_seconds=1.0)
        with contextlib.closing(ahead):
            yield ahead

    monkeypatch.setattr(pipelines, "looking_ahead", stopped)
    cancel = threading.Event()
    # It would be waited for until then.
    limit = threading.Timer(60.0, cancel.set)
    limit.start()
    (workspace.path / "007/003").write_text("changed")
    result = workspace.pipelines.snapshot(os.fsencode(workspace.path), cancel=cancel)
    limit.cancel()
    assert result.warnings == 0
    assert result.totals.bytes == 200 * (FOLDERS * FILES - 1) + len("changed")


def test_one_that_never_goes_on_can_be_broken_off(
    workspace: Workspace, program_that_stops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def stopped(request: SnapshotRequest) -> Iterator[LookAhead | None]:
        with contextlib.ExitStack() as looking:
            with monkeypatch.context() as patched:
                patched.setattr(sys, "executable", program_that_stops)
                ahead = looking.enter_context(looking_ahead(request))
            yield ahead

    monkeypatch.setattr(pipelines, "looking_ahead", stopped)
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    with pytest.raises(CancelledError):
        workspace.pipelines.snapshot(os.fsencode(workspace.path), cancel=cancel)
