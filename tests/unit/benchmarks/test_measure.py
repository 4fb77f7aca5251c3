"""What the benchmark measures of processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.benchmarks.measure import MemoryWatch, ToolError, percentile, run_command, tree, tree_cpu_seconds

MIB = 1 << 20


def test_a_command_is_measured_with_what_it_starts(tmp_path: Path) -> None:
    burn = "import time\nheld = bytes([1]) * (64 << 20)\nwhile time.process_time() < 0.4: pass"
    script = f"{sys.executable} -c '{burn}' & wait"
    usage = run_command(["bash", "-c", script], {}, tmp_path, tmp_path / "log")
    assert usage.client_cpu_seconds >= 0.4
    assert usage.machine_cpu_seconds > 0
    assert usage.seconds > 0
    assert usage.peak_memory_bytes >= 64 * MIB


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="status 3: it is full"):
        run_command(["bash", "-c", "echo it is full; exit 3"], {}, tmp_path, tmp_path / "log")
    with pytest.raises(ToolError, match="cannot be started"):
        run_command([str(tmp_path / "none")], {}, tmp_path, tmp_path / "log")


def test_a_command_gets_only_the_variables_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/elsewhere")
    run_command(
        ["bash", "-c", '[ -z "${AWS_CA_BUNDLE-}" ] && [ "$KEY" = value ]'], {"KEY": "value"}, tmp_path, tmp_path / "log"
    )


def test_staged_files_count_as_memory(tmp_path: Path) -> None:
    (tmp_path / "chunk").write_bytes(os.urandom(32 * MIB))
    with MemoryWatch(os.getpid(), tmp_path) as staged:
        pass
    assert staged.peak_bytes >= 32 * MIB
    assert os.getpid() in tree(os.getpid())
    assert tree_cpu_seconds(os.getpid()) > 0


def test_percentiles_need_two_values() -> None:
    assert percentile([1.0], 99) is None
    assert percentile([0.0, 100.0], 99) == pytest.approx(99.0)
