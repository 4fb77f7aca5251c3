"""The commands of the README, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 300


def test_commands_of_the_readme_work_one_after_another(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        metrics = f"127.0.0.1:{probe.getsockname()[1]}"
    script = "\n".join(["set -euo pipefail", *blocks, "wait"])
    # Only places differ from what a reader types: the machine's own are not the test's.
    script = script.replace("/opt/gpusnap", f"{tmp_path}/opt").replace("127.0.0.1:9447", metrics)
    script = script.replace("--quiet .", f"--quiet {_source(tmp_path)}")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GPUSNAP_AGENT__LISTEN": f"unix:{tmp_path}/agent.sock",
        "GPUSNAP_AGENT__METRICS_LISTEN": metrics,
        "GPUSNAP_AGENT_ADDRESS": f"unix:{tmp_path}/agent.sock",
    }
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "PIP_CACHE_DIR"):
        if name in os.environ:
            environ[name] = os.environ[name]
    folder = tmp_path / "here"
    folder.mkdir()
    shell = subprocess.Popen(
        ["bash", "-m", "-c", script],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        pytest.fail(f"the commands did not end within {SECONDS} s")
    assert shell.returncode == 0, output
    assert (folder / "one/code/main.py").read_text() == 'print("hello")\n'
    assert not (folder / "one/model.safetensors").exists()


def _source(folder: Path) -> Path:
    """Returns a copy of the source, as building in place would leave files there."""
    copy = folder / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", ".*cache*", "__pycache__", ".hypothesis")
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy
