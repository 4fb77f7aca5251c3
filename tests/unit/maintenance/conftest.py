"""Repositories in memory, with a clock: for prunes, and for the protocol between them and snapshots."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.snapshot import commit
from tests.support.kept import Kept
from tests.support.pipelines import memory_folder
from tests.support.protocol_world import TimeOfThread, World


@pytest.fixture(scope="module")
def virtual_time() -> Iterator[None]:
    """Snapshots wait in virtual time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "time", TimeOfThread())
        yield


@pytest.fixture
def world(virtual_time: None) -> Iterator[World]:
    """An empty repository."""
    folder = tempfile.mkdtemp(dir=memory_folder())
    made = World(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """An empty repository."""
    return Kept(tmp_path)
