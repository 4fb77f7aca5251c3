"""The benchmark itself, once and with little data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import nginx
from tests.benchmarks.run import main
from tests.support.trees import Directory, File, Symlink, build

ROOT = Path(__file__).parents[2]
has_nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + nginx.FURTHER_PATH) is not None


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A small workspace, and where everything goes."""
    files = [File(b"code/%d.py" % number, b"print(%d)\n" % number) for number in range(50)]
    weights = File(b"models/m.safetensors", os.urandom(3 << 20))
    build(os.fsencode(tmp_path / "workspace"), [Directory(b""), *files, weights, Symlink(b"link", b"code/1.py")])
    places = ["--workspace", str(tmp_path / "workspace"), "--cache", str(tmp_path / "cache")]
    return [*places, "--json", str(tmp_path / "figures.json"), "--no-small-files"]


def figures(tmp_path: Path) -> Any:
    """Returns what was written, once all else is gone."""
    assert not list((tmp_path / "cache").glob("run-*")), "what it made is gone"
    return json.loads((tmp_path / "figures.json").read_text())


def measured(section: Any) -> set[tuple[str, str]]:
    return {(sample["tool"], sample["action"]) for sample in section["samples"]}


def test_everything_that_can_run_here_is_measured_and_the_rest_named(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tools = ["--tools", "gpusnap,tar,s5cmd,cp", "--engines", "auto,s5cmd,directory,none"]
    status = main([*options, *tools, "--store", "seaweed", "--rounds", "1", "--tls", "off", "--cores", "1,4096"])
    shown = capsys.readouterr().out
    assert status == 0, shown
    assert "skipped: gpusnap, none" in shown
    found = figures(tmp_path)
    [section] = found["sections"]
    ours, others = ("gpusnap, auto", "gpusnap, s5cmd", "gpusnap, directory"), ("tar|lz4|s5cmd", "s5cmd cp")
    assert {(tool, action) for tool in (*ours, *others) for action in ("snapshot", "restore")} <= measured(section)
    assert {(tool, action) for tool in ours for action in ("unchanged", "restore weights")} <= measured(section)
    assert ("cp -a", "restore") in measured(section)
    assert {tool: verdict["content"] for tool, verdict in section["verdicts"].items()} == dict.fromkeys(
        (*ours, *others, "cp -a"), 0
    )
    assert {each["tool"]: each["usage"]["engine"] for each in section["samples"] if each["tool"] in ours} == {
        "gpusnap, auto": "stream", "gpusnap, s5cmd": "s5cmd", "gpusnap, directory": "directory",
    }  # fmt: skip
    values = {target["name"]: target["value"] for target in section["targets"]}
    of_auto = {each["action"]: each["usage"] for each in section["samples"] if each["tool"] == "gpusnap, auto"}
    of_s5cmd = {each["action"]: each["usage"] for each in section["samples"] if each["tool"] == "s5cmd cp"}
    ratio = of_auto["restore"]["seconds"] / of_s5cmd["restore"]["seconds"]
    assert values["restore / s5cmd cp of the same chunks"] == pytest.approx(ratio)
    scaling = found["scaling"]
    assert {each["tool"] for each in scaling["skipped"]} == {"4096 cores"} | (set() if has_nginx else {"nginx"})
    assert [each["cores"] for each in scaling["samples"]] == ([1] if has_nginx else [])
    assert [target["value"] for target in scaling["targets"]] == ([None] if has_nginx else [])


def test_stores_that_cannot_be_had_are_named_and_the_others_measured(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nginx, "FURTHER_PATH", "")
    tools = ["--tools", "gpusnap", "--engines", "stream,directory", "--rounds", "1"]
    status = main([*options, *tools, "--store", "nginx,seaweed", "--tls", "both", "--cores", "1"])
    shown = capsys.readouterr().out
    assert status == 0, shown
    found = figures(tmp_path)
    assert found["skipped"] == [
        {"tool": "nginx", "reason": "nginx is missing"},
        {"tool": "nginx over https", "reason": "openssl is missing"},
    ]
    [section] = found["sections"]
    assert (section["store"], section["tls"]) == ("seaweed", False)
    assert {tool for tool, _ in measured(section)} == {"gpusnap, stream", "gpusnap, directory"}
    assert [each["reason"] for each in found["scaling"]["skipped"]] == ["nginx is missing"]


@pytest.mark.skipif(not has_nginx or not shutil.which("openssl"), reason="nginx or openssl is missing")
def test_https_is_a_section_and_a_target_of_its_own(tmp_path: Path, options: list[str]) -> None:
    tools = ["--tools", "gpusnap,tar,s5cmd", "--engines", "stream", "--rounds", "1"]
    assert main([*options, *tools, "--store", "seaweed", "--tls", "both"]) == 0
    plain, encrypted = figures(tmp_path)["sections"]
    assert (plain["tls"], encrypted["tls"]) == (False, True)
    assert {tool for tool, _ in measured(plain)} == {"gpusnap, stream", "tar|lz4|s5cmd", "s5cmd cp"}
    assert {tool for tool, _ in measured(encrypted)} == {"gpusnap, stream", "s5cmd cp"}
    name = "client CPU s per GB of weights restored"
    assert name in {target["name"] for target in plain["targets"]}
    assert f"{name} (https)" in {target["name"] for target in encrypted["targets"]}
    assert all(target["value"] is not None for target in encrypted["targets"])


def test_what_was_measured_before_an_interruption_is_reported(tmp_path: Path, options: list[str]) -> None:
    command = [sys.executable, "-u", "-m", "tests.benchmarks.run", *options, "--store", "seaweed", "--tls", "off"]
    with subprocess.Popen(
        [*command, "--tools", "gpusnap", "--engines", "directory", "--rounds", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "round 2 of 1000" in line:
                process.send_signal(signal.SIGINT)
                break
        shown, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "interrupted" in complaint
    assert "restore          gpusnap, directory *" in shown
    [section] = figures(tmp_path)["sections"]
    assert {sample["round"] for sample in section["samples"]} >= {1}


def test_what_was_measured_before_a_defect_is_reported(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("tests.benchmarks.verify.Verifier.verdict", fail)
    tools = ["--tools", "gpusnap", "--engines", "directory", "--store", "seaweed", "--tls", "off"]
    assert main([*options, *tools]) == 1
    assert "a defect" in capsys.readouterr().err
    [section] = figures(tmp_path)["sections"]
    assert ("gpusnap, directory", "restore") in measured(section)
