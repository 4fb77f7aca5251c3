"""Damaged chunks and manifests: found, named, and never under a final name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import (
    DataLossError,
)
from agent.events import ChunkKind, FileReady
from agent.repository import keys
from agent.restore.request import IfNotEmpty
from tests.support.damage import DAMAGES, empty, extend, flip, replace_by_another, truncate
from tests.support.pipelines import damage_of, leftovers, memory_folder
from tests.support.saved import LARGE, VARIED_TREE, Saved
from tests.support.trees import File, build


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-damage-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def saved(folder: Path) -> Saved:
    return Saved(folder, VARIED_TREE)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_segment(saved: Saved, damage: Callable[[Path], None]) -> None:
    chunk = saved.chunk_of(b"dir/large")
    damage(saved.pipelines.chunk_file(chunk))
    with pytest.raises(DataLossError, match=f"{chunk.id.hex()}.*dir/large") as caught:
        saved.restore()
    assert damage_of(caught.value) == {chunk.id.hex(): {b"dir/large"}}
    assert saved.missing() == {"dir/large", "more"}
    assert leftovers(os.fsencode(saved.target)) == []
    ready = {event.path for event in saved.pipelines.events if isinstance(event, FileReady)}
    assert ready == {b"x large"}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_pack(saved: Saved, damage: Callable[[Path], None]) -> None:
    chunk = saved.chunk_of(b"small a")
    damage(saved.pipelines.chunk_file(chunk))
    with pytest.raises(DataLossError) as caught:
        saved.restore()
    (paths,) = damage_of(caught.value).values()
    assert paths >= {b"small a", b"small link"}
    assert saved.missing() == {path.decode() for path in paths} | {"small more"}
    assert "dir/large" not in saved.missing()
    assert leftovers(os.fsencode(saved.target)) == []


def test_a_missing_header_chunk_matters_to_standard_tools_only(saved: Saved) -> None:
    header = saved.chunks[saved.entries[b"dir/large"].chunk]
    assert header.kind is ChunkKind.HEADER
    saved.pipelines.chunk_file(header).unlink()
    saved.restore()
    assert saved.missing() == set()


def test_damage_keeps_the_old_file_and_mirrors_nothing_away(saved: Saved) -> None:
    build(os.fsencode(saved.target), [File(b"dir/large", b"old"), File(b"mine", b"x")])
    flip(saved.pipelines.chunk_file(saved.chunk_of(b"dir/large")))
    with pytest.raises(DataLossError):
        saved.restore(IfNotEmpty.MIRROR)
    assert (saved.target / "dir/large").read_text() == "old"
    assert (saved.target / "mine").read_text() == "x"
    assert (saved.target / "x large").read_bytes() == (saved.workspace / "x large").read_bytes()


def test_all_chunks_missing(saved: Saved) -> None:
    shutil.rmtree(saved.pipelines.store_folder / "chunks")
    with pytest.raises(DataLossError) as caught:
        saved.restore()
    lost = set().union(*damage_of(caught.value).values())
    assert lost >= {b"dir/large", b"x large", b"small a"}
    assert {path.name for path in saved.target.iterdir()} == {"dir"}


def test_damage_is_healed_by_a_new_snapshot_once_the_damaged_one_is_deleted(saved: Saved) -> None:
    flip(saved.pipelines.chunk_file(saved.chunk_of(b"dir/large")))
    saved.pipelines.repository.delete_snapshot(saved.id)
    again = saved.pipelines.snapshot(os.fsencode(saved.workspace), large_file_size=LARGE)
    assert again.chunks_transferred == again.chunks
    saved.id = again.snapshot_id
    saved.restore()
    assert saved.missing() == set()


@pytest.mark.parametrize(
    "damage", [flip, truncate, extend, empty, replace_by_another], ids=lambda damage: damage.__name__
)
def test_a_damaged_manifest_restores_nothing(saved: Saved, damage: Callable[[Path], None]) -> None:
    damage(saved.pipelines.store_folder / keys.manifest(saved.id))
    with pytest.raises(DataLossError, match=saved.id):
        saved.restore()
    assert not saved.target.exists()


def test_a_damaged_manifest_does_not_stop_the_next_snapshot(saved: Saved) -> None:
    flip(saved.pipelines.store_folder / keys.manifest(saved.id))
    again = saved.pipelines.snapshot(os.fsencode(saved.workspace), large_file_size=LARGE)
    assert again.chunks_transferred == again.chunks
    assert set(saved.pipelines.warned()) == {"SNAPSHOT_DAMAGED"}
    saved.pipelines.repository.delete_snapshot(saved.id)
    saved.id = again.snapshot_id
    saved.restore()
    assert saved.missing() == set()
