"""The command `gpusnap-agent` besides serving."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from agent import version

PROGRAM = os.path.join(os.path.dirname(sys.executable), "gpusnap-agent")
SECRET = "the-very-secret-key"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version() -> None:
    done = run("version")
    assert (done.returncode, done.stdout) == (0, f"gpusnap-agent {version()}\n")


def test_check_config_shows_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[storage]\nprovider = "r2"\nbucket = "from-file"\nendpoint = "https://x.example"\n')
    keys = {"STORAGE_ACCESS_KEY_ID": "the-id", "STORAGE_SECRET_ACCESS_KEY": SECRET}
    arguments = ("check-config", "--config", str(file), "--state-dir", "/s")
    done = run(*arguments, STORAGE_BUCKET="from-environment", **keys)
    assert done.returncode == 0, done.stderr
    assert "from-environment" in done.stdout
    assert "# staging: /run/gpusnap/staging on " in done.stdout
    assert SECRET not in done.stdout

    done = run(*arguments, "--json", STORAGE_BUCKET="from-environment", **keys)
    values = json.loads(done.stdout)
    assert values["storage.bucket"] == {"value": "from-environment", "origin": "environment variable STORAGE_BUCKET"}
    assert values["storage.provider"] == {"value": "r2", "origin": str(file)}
    assert values["agent.state_dir"] == {"value": "/s", "origin": "command line"}
    assert values["transfer.connections"] == {"value": 64, "origin": "default"}
    assert SECRET not in done.stdout


def test_a_bad_value_is_one_line() -> None:
    for command in ("check-config", "serve"):
        done = run(command, GPUSNAP_TRANSFER__CONNECTIONS="many")
        assert done.returncode == 2
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith("gpusnap-agent: transfer.connections: 'many'")


def test_a_wrong_command_line() -> None:
    for arguments in ((), ("unknown",), ("serve", "--unknown")):
        assert run(*arguments).returncode == 2
