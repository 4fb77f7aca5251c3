"""What the process of an operation loads: every module is on the way to its first byte."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNNEEDED = frozenset(
    {"agent.storage.auto", "agent.storage.directory", "agent.storage.s5cmd", "asyncio", "grpc", "html", "pathspec"}
)


@pytest.mark.parametrize("pipeline", ["agent.snapshot.run", "agent.restore.run"])
def test_a_pipeline_loads_only_what_it_needs(pipeline: str) -> None:
    code = (
        f"import sys, agent.operations.worker, {pipeline}, agent.storage.s3, agent.storage.stream; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert pipeline in loaded
    assert not UNNEEDED & set(loaded)
