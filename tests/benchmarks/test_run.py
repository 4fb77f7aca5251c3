"""The benchmark itself, once and with little data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.run import main


@pytest.mark.slow
def test_the_benchmark_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    options = ["--size", "quick", "--rounds", "1", "--tools", "gpusnap,s5cmd", "--engines", "s5cmd,directory,none"]
    status = main([*options, "--store", "seaweed", "--json", str(figures), "--cache", str(tmp_path / "cache")])
    shown = capsys.readouterr().out
    assert status == 0, shown
    assert "skipped: gpusnap, none" in shown
    section = json.loads(figures.read_text())["sections"][0]
    measured = {(sample["tool"], sample["action"]) for sample in section["samples"]}
    tools = ("gpusnap, s5cmd", "gpusnap, directory", "s5cmd cp")
    assert {(tool, action) for tool in tools for action in ("snapshot", "restore")} <= measured
    assert {("gpusnap, s5cmd", "unchanged"), ("gpusnap, directory", "unchanged")} <= measured
    assert [target["value"] for target in section["targets"] if "s5cmd cp" in target["name"]] != [None, None]
    assert not list((tmp_path / "cache").glob("run-*")), "what it made is gone"
