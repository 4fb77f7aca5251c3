"""Whatever tree goes into a snapshot comes back identical, and the same content is stored once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from agent.config.model import MIB
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.trees import (
    Node,
    build,
    compare,
    trees,
)

IS_ROOT = os.geteuid() == 0

ACL_ACCESS = bytes.fromhex("0200000001000600ffffffff02000700e803000004000400ffffffff10000700ffffffff20000400ffffffff")
"""A POSIX ACL with an entry for user 1000, as the kernel keeps it in system.posix_acl_access."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is removed at once: these trees are large, and their files have odd modes."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-round-"))
    yield path
    shutil.rmtree(path)


def round_trip(folder: Path, nodes: list[Node], large_file_size: int = 16 * MIB) -> Pipelines:
    """Builds a tree, saves it, restores it and compares; returns the pipelines for a closer look."""
    workspace, target = os.fsencode(folder / "workspace"), os.fsencode(folder / "target")
    build(workspace, nodes)
    pipelines = Pipelines(folder)
    saved = pipelines.snapshot(workspace, large_file_size=large_file_size)
    assert pipelines.warned() == {}
    restored = pipelines.restore(target)
    assert pipelines.warned() == {}
    assert restored.snapshot_id == saved.snapshot_id
    assert restored.totals == saved.totals
    assert compare(workspace, target) == []
    return pipelines


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(nodes=trees())
def test_any_tree_comes_back_identical(nodes: list[Node]) -> None:
    with tempfile.TemporaryDirectory(prefix="gpusnap-any-", dir=memory_folder()) as path:
        # Above 4,000 bytes a file gets segments, so that small trees have both kinds of chunks.
        round_trip(Path(path), nodes, large_file_size=4000)
