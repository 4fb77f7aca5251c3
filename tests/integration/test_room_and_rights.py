"""Full file systems, and workspaces and targets that may not be read or written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.children import AS_NOBODY, NOBODY, needs_root, run_python, with_tmpfs
from tests.support.pipelines import memory_folder
from tests.support.saved import Saved
from tests.support.trees import Directory, File, HardLink, Node, Seeded, build


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-damage-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


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
    print(error.reason, "the restore needs" in error.message)
print(sorted(os.listdir(place)), leftovers(os.fsencode(place)))
"""


def try_in(place: Path, options: str, operation: object, folder: Path) -> str:
    place.mkdir()
    return run_python(TRY, operation, folder, place, under=with_tmpfs(place, options)).decode().strip()


@needs_root
def test_a_target_without_room_is_refused_before_anything_is_written(folder: Path) -> None:
    Saved(folder, [File(b"large", Seeded(20 << 20, compressible=True)), File(b"small", b"x")])
    place = folder / "place"
    said = try_in(place, "size=16m", 0, folder)
    assert said.splitlines() == ["NO_SPACE True", "['mine'] []"]


@needs_root
def test_a_target_that_gets_full_keeps_only_complete_files(folder: Path) -> None:
    # The content would fit, but every small file takes a whole page.
    Saved(folder, [File(b"f%04d" % number, b"x" * 100) for number in range(600)])
    place = folder / "place"
    said = try_in(place, "size=2m", 1 << 20, folder)
    assert said.splitlines() == ["NO_SPACE False", "['mine', 'target'] []"]


@needs_root
def test_a_staging_folder_without_room(folder: Path) -> None:
    nodes: list[Node] = [File(b"f%05d" % number + b"n" * 200, b"") for number in range(3000)]
    saved = Saved(folder, nodes)
    for number, operation in enumerate(("snapshot", "staging")):
        place = folder / f"place{number}"
        said = try_in(place, "size=16k", operation, folder)
        assert said.split()[0] in ("NO_SPACE", "STAGING_FULL")
    assert not saved.target.exists()
    assert len(saved.pipelines.repository.list_snapshots(10)) == 1


UNREADABLE = """
import os, sys
from pathlib import Path
from tests.support.pipelines import Pipelines
folder = Path(sys.argv[1])
pipelines = Pipelines.reopen(folder)
pipelines.snapshot(os.fsencode(folder / "workspace"), staging=folder / "staging")
print(sorted((reason, sorted(paths)) for reason, paths in pipelines.warned().items()))
print(sorted(pipelines.entries(pipelines.repository.resolve("latest"))))
"""


@needs_root
def test_what_cannot_be_read_is_a_warning(folder: Path) -> None:
    nobody = (NOBODY, NOBODY)
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
    warned, saved = run_python(UNREADABLE, folder, under=AS_NOBODY).decode().splitlines()
    assert "'FILE_UNREADABLE', [b'closed', b'secret']" in warned
    assert "b'secret too'" in warned
    assert saved == "[b'', b'closed', b'mine', b'open']"
