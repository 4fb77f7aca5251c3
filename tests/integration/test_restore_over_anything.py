"""Restores over targets that were changed at random: whatever was done to them, they are as the workspace was."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.restore.request import IfNotEmpty
from tests.support.pipelines import memory_folder
from tests.support.saved import Saved
from tests.support.trees import Node, names, trees

OVER = (IfNotEmpty.OVERWRITE, IfNotEmpty.MIRROR)

Change = Callable[[Path, st.DataObject, bool], None]


def is_folder(path: Path) -> bool:
    # In this order: what a link leads to may be no possible path at all.
    return not path.is_symlink() and path.is_dir()


def remove(path: Path, data: st.DataObject, silently: bool) -> None:
    shutil.rmtree(path) if is_folder(path) else path.unlink()


def rewrite(path: Path, data: st.DataObject, silently: bool) -> None:
    if path.is_symlink() or not path.is_file():
        return
    before = path.stat()
    content = bytearray(path.read_bytes())
    if content:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1
    path.chmod(0o600)
    with path.open("r+b") as file:  # not so that it would be made: see ``append`` of the trees
        file.write(content)
    if silently:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path, data: st.DataObject, silently: bool) -> None:
    if not path.is_symlink() and path.is_file():
        path.chmod(0o600)
        os.truncate(path, data.draw(st.integers(0, 2 * path.stat().st_size + 1)))


def touch(path: Path, data: st.DataObject, silently: bool) -> None:
    os.utime(path, ns=(5, 5), follow_symlinks=False)


def dress(path: Path, data: st.DataObject, silently: bool) -> None:
    if not path.is_symlink():
        path.chmod(data.draw(st.sampled_from([0o700, 0o755, 0o4711])))


def rename(path: Path, data: st.DataObject, silently: bool) -> None:
    # What has this name at the top of a target is left alone.
    other = path.parent / os.fsdecode(data.draw(names().filter(lambda name: name != b"lost+found")))
    if not os.path.lexists(other):
        path.rename(other)


def link(path: Path, data: st.DataObject, silently: bool) -> None:
    files = [other for other in sorted(path.parent.iterdir()) if other != path and not is_folder(other)]
    if files and not is_folder(path):
        path.unlink()
        os.link(data.draw(st.sampled_from(files)), path, follow_symlinks=False)


def replace(path: Path, data: st.DataObject, silently: bool) -> None:
    remove(path, data, silently)
    kind = data.draw(st.sampled_from(["file", "directory", "symlink", "pipe"]))
    if kind == "file":
        path.write_bytes(b"other")
    elif kind == "directory":
        path.mkdir()
    elif kind == "symlink":
        path.symlink_to("..")
    else:
        os.mkfifo(path)


CHANGES: list[Change] = [remove, rewrite, cut, touch, dress, rename, link, replace]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    nodes=trees(),
    data=st.data(),
    mode=st.sampled_from(OVER),
    checksum=st.booleans(),
)
def test_whatever_was_changed_a_restore_brings_it_back(
    nodes: list[Node], data: st.DataObject, mode: IfNotEmpty, checksum: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="gpusnap-any-", dir=memory_folder()) as path:
        saved = Saved(Path(path), nodes)
        saved.restore()
        for _ in range(data.draw(st.integers(0, 5))):
            present = sorted(saved.target.rglob("*"))
            if present:
                change = data.draw(st.sampled_from(CHANGES))
                change(data.draw(st.sampled_from(present)), data, checksum)
        target = os.fsencode(saved.target)
        saved.pipelines.restore(target, saved.id, if_not_empty=mode, checksum=checksum)
        lines = saved.differences()
        if mode is IfNotEmpty.OVERWRITE:
            lines = [line for line in lines if not line.endswith(": added")]
        assert lines == []
        saved.pipelines.restore(target, saved.id, if_not_empty=mode, checksum=checksum)
        assert saved.pipelines.moved() == set()
