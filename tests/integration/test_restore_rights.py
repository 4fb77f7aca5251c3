"""Restores without privilege, and across file systems."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import (
    LocalPermissionError,
)
from agent.events import PipelineEvent
from agent.restore.request import IfNotEmpty, RestoreRequest
from tests.support.children import AS_NOBODY, NOBODY, needs_root, run_python, with_tmpfs
from tests.support.pipelines import Pipelines, leftovers, memory_folder
from tests.support.saved import Saved
from tests.support.trees import Device, Directory, File, HardLink, Node, Seeded, Symlink, build, compare


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory that others may enter, as some restores run as another user."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-modes-", dir=memory_folder()))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


RESTORE = """
import sys, threading
import msgspec
from agent.errors import GpusnapError
from agent.restore.request import RestoreRequest
from agent.restore.run import run
request = msgspec.json.decode(sys.argv[1], type=RestoreRequest)
def emit(event):
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\\n")
run(request, emit, threading.Event())
"""


def restore_as_nobody(saved: Saved, **fields: object) -> Pipelines:
    """Restores in a process without privilege and returns pipelines with what it emitted."""
    staging = saved.folder / "staging-nobody"
    staging.mkdir()
    os.chown(staging, NOBODY, NOBODY)
    for above, folders, files in os.walk(saved.pipelines.store_folder):
        for name in [above, *(os.path.join(above, name) for name in folders + files)]:
            os.chown(name, NOBODY, NOBODY)
    request = RestoreRequest(
        operation="restore-nobody",
        snapshot="latest",
        target=os.fsencode(saved.target),
        staging_dir=str(staging),
        storage=saved.pipelines.storage,
        transfer=saved.pipelines.transfer,
    )
    request = msgspec.structs.replace(request, **fields)
    output = run_python(RESTORE, msgspec.json.encode(request).decode(), under=AS_NOBODY)
    decoder = msgspec.json.Decoder(PipelineEvent)
    saved.pipelines.events = [decoder.decode(line) for line in output.splitlines()]
    return saved.pipelines


@needs_root
def test_what_needs_privilege_is_a_warning_that_names_the_files(folder: Path) -> None:
    nobody = (NOBODY, NOBODY)
    saved = Saved(
        folder,
        [
            Directory(b"", owner=nobody),
            Directory(b"root's", owner=(0, 0), mode=0o2750),
            File(b"root's/set id", b"x", owner=(0, 0), mode=0o6755),
            File(b"mine", b"x", owner=nobody, mode=0o4755),
            File(b"read only", Seeded(7000), owner=nobody, mode=0o400, xattrs=((b"user.a", b"b"),)),
            Directory(b"closed", owner=nobody, mode=0o500),
            File(b"closed/file", b"x", owner=nobody),
            Symlink(b"link", b"mine", owner=(0, 0)),
            Device(b"null", owner=nobody),
            HardLink(b"null too", b"null"),
            File(b"trusted", b"x", owner=nobody, xattrs=((b"trusted.a", b"b"),)),
        ],
    )
    saved.target.mkdir()
    os.chown(saved.target, NOBODY, NOBODY)
    warned = restore_as_nobody(saved).warned()
    assert warned == {
        "OWNER_NOT_RESTORED": {b"root's", b"root's/set id", b"link"},
        "DEVICE_NOT_RESTORED": {b"null"},
        "LINK_NOT_RESTORED": {b"null too"},
        "XATTR_NOT_RESTORED": {b"trusted"},
    }
    assert stat.S_IMODE((saved.target / "root's/set id").stat().st_mode) == 0o755
    assert stat.S_IMODE((saved.target / "root's").stat().st_mode) == 0o750
    assert stat.S_IMODE((saved.target / "mine").stat().st_mode) == 0o4755
    differences = compare(os.fsencode(saved.workspace), os.fsencode(saved.target), owners=False)
    assert sorted(line.split(":")[0] for line in differences) == [
        "null", "null too", "root's", "root's/set id", "trusted",
    ]  # fmt: skip
    assert leftovers(os.fsencode(saved.target)) == []


@needs_root
def test_a_target_of_another_user_that_may_be_written(folder: Path) -> None:
    saved = Saved(folder, [Directory(b"", owner=(0, 0)), File(b"file", b"x", owner=(NOBODY, NOBODY))])
    saved.target.mkdir()
    saved.target.chmod(0o777)
    warned = restore_as_nobody(saved).warned()
    assert warned["METADATA_NOT_RESTORED"] == {b""}
    assert (saved.target / "file").read_text() == "x"


@needs_root
def test_a_folder_without_access_is_opened_for_its_owner(folder: Path) -> None:
    nobody = (NOBODY, NOBODY)
    nodes: list[Node] = [Directory(b"", owner=nobody), Directory(b"d", owner=nobody), File(b"d/f", b"x", owner=nobody)]
    saved = Saved(folder, nodes)
    build(os.fsencode(saved.target), [Directory(b"", owner=nobody), Directory(b"d", owner=nobody, mode=0)])
    restore_as_nobody(saved, if_not_empty=IfNotEmpty.OVERWRITE)
    assert saved.pipelines.warned() == {}
    assert saved.differences() == []


@needs_root
def test_a_target_that_may_not_be_written_is_refused(folder: Path) -> None:
    saved = Saved(folder, [File(b"file", b"x")])
    saved.target.mkdir()
    with pytest.raises(AssertionError, match=LocalPermissionError.__name__):
        restore_as_nobody(saved)
    assert os.listdir(saved.target) == []


ACROSS = """
import os, sys
from pathlib import Path
from agent.restore.request import IfNotEmpty
from agent.restore.large_files import unfinished_name
from tests.support.pipelines import Pipelines, leftovers
from tests.support.trees import compare
folder = Path(sys.argv[1])
target = os.fsencode(folder / "target")
left = b".gpusnap-restore-" + unfinished_name(b"dir/large")
(folder / "target/dir" / os.fsdecode(left)).write_text("what a killed restore left")
pipelines = Pipelines.reopen(folder)
pipelines.restore(target, if_not_empty=IfNotEmpty[sys.argv[2]])
print(pipelines.warned(), compare(os.fsencode(folder / "workspace"), target), leftovers(target))
"""


@needs_root
@pytest.mark.parametrize("mode", ["OVERWRITE", "MIRROR"])
def test_a_target_with_another_file_system_below_it(folder: Path, mode: str) -> None:
    nodes: list[Node] = [
        File(b"dir/large", Seeded(7000), mode=0o6755),
        HardLink(b"dir/more", b"dir/large"),
        File(b"dir/sub/small", b"x", owner=(1, 2)),
        HardLink(b"dir/sub/too", b"dir/sub/small"),
        Symlink(b"dir/link", b"large"),
        File(b"large", Seeded(6000)),
    ]
    saved = Saved(folder, nodes)
    mount = saved.target / "dir"
    mount.mkdir(parents=True)
    said = run_python(ACROSS, folder, mode, under=with_tmpfs(mount))
    assert said == b"{} [] []\n"
