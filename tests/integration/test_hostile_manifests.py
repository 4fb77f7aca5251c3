"""Manifests that no snapshot would write do no harm."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import (
    DataLossError,
    LocalIoError,
)
from agent.events import ChunkKind
from agent.repository.model import Entry, EntryType
from agent.restore.request import IfNotEmpty
from tests.support import forging
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.trees import File, build, facts


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-damage-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


ROOT = forging.directory(b"")
PACK = b"EVIL" * 128


def large(path: bytes, **fields: object) -> Entry:
    return forging.file(path, 0, 512, chunk=1, segments=1, **fields)


HOSTILE: dict[str, list[Entry]] = {
    "up": [ROOT, forging.file(b"../outside/evil", 0, 4)],
    "absolute": [ROOT, forging.file(b"/evil", 0, 4)],
    "up from below": [ROOT, forging.directory(b"a"), forging.file(b"a/../../outside/evil", 0, 4)],
    "a directory up": [ROOT, forging.directory(b"../outside/evil")],
    "through a link": [ROOT, forging.symlink(b"a", b"OUTSIDE"), forging.file(b"a/evil", 0, 4)],
    "a large file through a link": [ROOT, forging.symlink(b"a", b"OUTSIDE"), large(b"a/evil")],
    "a directory through a link": [ROOT, forging.symlink(b"a", b"OUTSIDE"), forging.directory(b"a/evil")],
    "a link replaced": [
        ROOT,
        forging.symlink(b"a", b"OUTSIDE"),
        forging.directory(b"a"),
        forging.file(b"a/evil", 0, 4),
    ],
    "hard link up": [ROOT, forging.file(b"a", 0, 4, hard_link_group=1), forging.hard_link(b"evil", b"../outside/file")],
    "hard link absolute": [ROOT, forging.hard_link(b"evil", b"/etc/passwd")],
    "hard link through a link": [ROOT, forging.symlink(b"a", b"OUTSIDE"), forging.hard_link(b"evil", b"a/file")],
    "hard link to nothing": [ROOT, forging.hard_link(b"evil", b"nowhere")],
    "absurd size": [ROOT, forging.file(b"evil", 0, 0, sparse=True, size=2**62 + 1)],
    "absurd content": [ROOT, forging.file(b"evil", 0, 2**40)],
    "absurd owner": [ROOT, forging.file(b"evil", 0, 4, uid=2**32 - 1)],
    "absurd device": [
        ROOT,
        msgspec.structs.replace(forging.file(b"evil"), type=EntryType.BLOCK_DEVICE, device_major=2**32 - 1),
    ],
    "absurd segments": [ROOT, forging.file(b"evil", 0, 2**50, chunk=1, segments=2**24)],
    "a pack in two pieces": [ROOT, forging.file(b"a", 0, 4), large(b"b"), forging.file(b"c", 0, 4)],
    "no workspace": [forging.file(b"evil", 0, 4)],
    "the workspace is a link": [forging.symlink(b"", b"OUTSIDE"), forging.file(b"evil", 0, 4)],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_writes_nothing_anywhere(folder: Path, case: str) -> None:
    outside = folder / "outside"
    build(os.fsencode(outside), [File(b"file", b"x")])
    before = facts(os.fsencode(outside))
    entries = [
        msgspec.structs.replace(entry, link_target=entry.link_target.replace(b"OUTSIDE", os.fsencode(outside)))
        for entry in HOSTILE[case]
    ]
    pipelines = Pipelines(folder)
    raw = [(PACK, ChunkKind.PACK), (b"h" * 512, ChunkKind.HEADER), (b"s" * 512, ChunkKind.SEGMENT)]
    snapshot = forging.store_snapshot(pipelines.repository, folder / "manifest", entries, raw)
    for mode in (IfNotEmpty.FAIL, IfNotEmpty.MIRROR):
        with pytest.raises(DataLossError):
            pipelines.restore(os.fsencode(folder / "target"), snapshot, if_not_empty=mode)
    assert not (folder / "target").exists()
    assert facts(os.fsencode(outside)) == before


def test_a_well_formed_forged_manifest_is_restored(folder: Path) -> None:
    """The hostile ones are refused for what they say, not for how they were made."""
    pipelines = Pipelines(folder)
    entries = [
        ROOT,
        forging.directory(b"a"),
        forging.file(b"a/file", 4, 4),
        large(b"large", hard_link_group=1),
        forging.hard_link(b"more", b"large", chunk=3),
    ]
    raw = [
        (PACK, ChunkKind.PACK),
        (b"h" * 512, ChunkKind.HEADER),
        (b"s" * 512, ChunkKind.SEGMENT),
        (b"p" * 512, ChunkKind.PACK),
    ]
    snapshot = forging.store_snapshot(pipelines.repository, folder / "manifest", entries, raw)
    pipelines.restore(os.fsencode(folder / "target"), snapshot)
    assert (folder / "target/a/file").read_bytes() == b"EVIL"
    assert (folder / "target/more").read_bytes() == b"s" * 512


def test_a_file_that_the_file_system_cannot_hold(tmp_path: Path) -> None:
    folder = tmp_path
    pipelines = Pipelines(folder)
    entries = [ROOT, forging.file(b"evil", 0, 0, sparse=True, size=2**62)]
    snapshot = forging.store_snapshot(pipelines.repository, folder / "manifest", entries, [(PACK, ChunkKind.PACK)])
    with pytest.raises(LocalIoError, match="evil cannot be written"):
        pipelines.restore(os.fsencode(folder / "target"), snapshot)
    assert not (folder / "target").exists() or os.listdir(folder / "target") == []


def test_attributes_that_the_file_system_has_no_room_for_are_a_warning() -> None:
    """ext4 says "no space" to an attribute that is larger than a block."""
    with tempfile.TemporaryDirectory(prefix="gpusnap-damage-") as name:
        folder = Path(name)
        pipelines = Pipelines(folder)
        entries = [ROOT, forging.file(b"file", 0, 4, xattrs=((b"user.large", bytes(1 << 20)),))]
        snapshot = forging.store_snapshot(pipelines.repository, folder / "manifest", entries, [(PACK, ChunkKind.PACK)])
        pipelines.restore(os.fsencode(folder / "target"), snapshot)
        assert pipelines.warned() == {"XATTR_NOT_RESTORED": {b"file"}}
        assert (folder / "target/file").read_bytes() == b"EVIL"
