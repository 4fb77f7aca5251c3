"""Somebody who may write to a target or a workspace swaps what is there for links while it is restored or saved.

Nothing outside the target is ever made, changed or removed, and nothing outside the workspace is ever stored.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agent.errors import GpusnapError
from agent.repository.model import EntryType
from agent.restore.request import IfNotEmpty
from controller_client.demo.compare import compare
from tests.support.fuzz import FACTOR, tried
from tests.support.pipelines import Pipelines, leftovers, memory_folder
from tests.support.saved import LARGE
from tests.support.trees import Directory, File, HardLink, Node, Seeded, Symlink, build

RESTORES = 80
SNAPSHOTS = 50
PAUSES = (0.0, 0.0002, 0.001)
"""Seconds between two hostile steps: the faster they come, the sooner a restore gives up."""

FOLDERS = tuple(
    b"%s/%s" % (top, deep) if deep else top for top in (b"a", b"b", b"c", b"d") for deep in (b"", b"e", b"e/f")
)


def nodes(version: int) -> list[Node]:
    """A workspace, of which each version has other content and other metadata."""
    found: list[Node] = []
    for number, folder in enumerate(FOLDERS):
        seed = 100 * version + number
        found += [
            Directory(folder, mode=0o750 + version, xattrs=((b"user.is", folder),), mtime_ns=seed),
            *(File(folder + b"/small%d" % each, Seeded(700 + each, seed=seed), mtime_ns=seed) for each in range(4)),
            File(folder + b"/large", Seeded(2 * LARGE, seed=1000 + seed), mtime_ns=seed),
            File(folder + b"/other", Seeded(70, seed=2000 + seed), mode=0o6755, mtime_ns=seed),
            Symlink(folder + b"/link", b"small%d" % version),
        ]
    return found + [HardLink(folder + b"/name", b"a/small0") for folder in FOLDERS]


class Scene:
    """A saved workspace, and an outside that has the same paths."""

    def __init__(self, folder: Path) -> None:
        self.workspace, self.target, self.outside = folder / "workspace", folder / "target", folder / "outside"
        self.secret = secrets.token_bytes(24)
        build(os.fsencode(self.workspace), nodes(0))
        self.name = secrets.token_hex(12).encode()
        told = ((b"user.is", self.name),)
        outside: list[Node] = [Directory(path, mode=0o711, xattrs=told) for path in FOLDERS]
        outside += [Symlink(path + b"/" + self.name, self.name) for path in FOLDERS]
        outside += [
            File(path + b"/" + name, self.secret * 20, mode=0o640, xattrs=told)
            for path in FOLDERS
            for name in (b"small0", b"small1", b"large", b"other", b"name", b"secret")
        ]
        outside += [File(b"linked/%d" % number, Seeded(700, seed=number), mode=0o604) for number in range(4)]
        build(os.fsencode(self.outside), outside)
        (folder / "work").mkdir()
        self.pipelines = Pipelines(folder / "work")
        self.outcomes: Counter[str] = Counter()

    def save(self, version: int) -> str:
        """Makes a version of the workspace and saves it."""
        shutil.rmtree(self.workspace)
        build(os.fsencode(self.workspace), nodes(version))
        return self.pipelines.snapshot(os.fsencode(self.workspace), large_file_size=LARGE).snapshot_id

    @contextmanager
    def attacked(self, folder: Path, chance: random.Random, kind: str) -> Iterator[None]:
        """Has a hostile process at work in a folder, which begins before the body."""
        root = Path(__file__).parents[2]
        seed, pause = chance.randrange(1 << 32), chance.choice(PAUSES)
        command = [sys.executable, "-m", "tests.faults.hostile.swapper"]
        with subprocess.Popen(
            [*command, str(folder), str(self.outside), str(seed), str(pause), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == b"begun\n"
                yield
                assert process.poll() is None
            finally:
                process.stdin.close()

    def facts(self) -> dict[str, tuple[object, ...]]:
        """Returns all that may not change outside; a further name changes no more than the time of the inode."""
        found: dict[str, tuple[object, ...]] = {}
        for folder, folders, files in os.walk(self.outside):
            for path in [folder, *(os.path.join(folder, name) for name in folders + files)]:
                status = os.lstat(path)
                is_linked = "/linked/" in path
                found[path] = (
                    (status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns),
                    0 if is_linked else status.st_ctime_ns,
                    _content(path),
                )
        return found

    def look_at(self, snapshot_id: str) -> None:
        """Checks that a snapshot tells nothing that is only outside, but of links to it."""
        outside = os.fsencode(self.outside) + b"/"
        for path, entry in self.pipelines.entries(snapshot_id).items():
            if not (entry.type is EntryType.SYMLINK and entry.link_target.startswith(outside)):
                assert entry.mode not in (0o711, 0o640), entry
                assert not path.endswith(b"/secret"), entry
                assert self.name not in repr(entry).encode(), entry

    def judge(self, error: GpusnapError | None) -> None:
        """Counts an outcome; one that is no success must be clear."""
        self.outcomes[error.reason if error is not None else "success"] += 1
        if error is not None:
            assert error.reason != GpusnapError.reason, error
            for text in (error.message, error.hint):
                assert text.strip()
                assert "\n" not in text


def _content(path: str) -> bytes:
    if os.path.islink(path):
        return os.fsencode(os.readlink(path))
    return b"" if os.path.isdir(path) else Path(path).read_bytes()


@pytest.fixture
def scene() -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-hostile-", dir=memory_folder()))
    yield Scene(folder)
    shutil.rmtree(folder)


def test_a_target_that_is_swapped_while_it_is_restored(scene: Scene, chance: random.Random) -> None:
    versions = [scene.save(0), scene.save(1)]
    target = os.fsencode(scene.target)
    before = scene.facts()
    for number in range(round(RESTORES * FACTOR)):
        mode = chance.choice(list(IfNotEmpty))
        if mode is IfNotEmpty.FAIL or chance.random() < 0.2:
            shutil.rmtree(scene.target, ignore_errors=True)
        scene.target.mkdir(exist_ok=True)
        # Worker processes take their time to begin.
        workers = 2 if number % 8 == 0 else 1
        scene.pipelines.transfer = msgspec.structs.replace(scene.pipelines.transfer, workers=workers)
        error = None
        with scene.attacked(scene.target, chance, "target"):
            try:
                scene.pipelines.restore(target, versions[number % 2], if_not_empty=mode, checksum=chance.random() < 0.3)
            except GpusnapError as raised:
                error = raised
        scene.judge(error)
        assert scene.facts() == before
        tried["test_a_target_that_is_swapped_while_it_is_restored"] += 1
    print(scene.outcomes)

    # Once nobody disturbs it any more, the same succeeds.
    scene.pipelines.restore(target, versions[1], if_not_empty=IfNotEmpty.MIRROR)
    assert compare(os.fsencode(scene.workspace), target) == []
    assert leftovers(target) == []
    assert scene.facts() == before


def test_a_workspace_that_is_swapped_while_it_is_saved(scene: Scene, chance: random.Random) -> None:
    workspace = os.fsencode(scene.workspace)
    before = scene.facts()
    for number in range(round(SNAPSHOTS * FACTOR)):
        workers = 2 if number % 8 == 0 else 1
        scene.pipelines.transfer = msgspec.structs.replace(scene.pipelines.transfer, workers=workers)
        error = None
        with scene.attacked(scene.workspace, chance, "workspace"):
            try:
                result = scene.pipelines.snapshot(workspace, large_file_size=LARGE, full=chance.random() < 0.5)
                scene.look_at(result.snapshot_id)
            except GpusnapError as raised:
                error = raised
        scene.judge(error)
        tried["test_a_workspace_that_is_swapped_while_it_is_saved"] += 1
        if chance.random() < 0.3:
            shutil.rmtree(scene.workspace)
            build(workspace, nodes(0))
    print(scene.outcomes)
    assert scene.facts() == before
    chunks = [path.read_bytes() for path in (scene.pipelines.store_folder / "chunks").rglob("*") if path.is_file()]
    decoded = subprocess.run(["lz4", "-dc"], input=b"".join(chunks), capture_output=True, check=True).stdout
    assert len(decoded) > len(scene.secret)
    assert scene.secret not in decoded
