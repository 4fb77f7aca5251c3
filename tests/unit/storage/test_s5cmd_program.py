"""Finding s5cmd and starting it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from agent.config.model import Credentials, StorageConfig
from agent.errors import EngineUnavailableError
from agent.storage.s5cmd_program import command_line, environment, find_s5cmd


def script(folder: Path, text: str) -> str:
    path = folder / "s5cmd"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_program_beside_this_python_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path, version = find_s5cmd()
    assert Path(path).is_relative_to(sys.prefix)
    assert Path(path).read_bytes()[:4] == b"\x7fELF", "the program itself, not a script that starts it"
    assert tuple(map(int, version.split("."))) >= (2, 2)


def test_the_program_on_path_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = script(tmp_path, "#!/bin/sh\necho v2.2.2-abc\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert find_s5cmd() == (expected, "2.2.2")


def test_a_missing_program_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineUnavailableError, match="neither beside this Python nor on PATH"):
        find_s5cmd()
    with pytest.raises(EngineUnavailableError, match="/nowhere/s5cmd: No such file"):
        find_s5cmd("/nowhere/s5cmd")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\necho v2.1.0-abc\n", "is version v2.1.0-abc, but 2.2 or newer is needed"),
        ("#!/bin/sh\necho v1.9.9\n", "but 2.2 or newer is needed"),
        ("#!/bin/sh\necho hello\n", "is not s5cmd: its version is 'hello'"),
        ("#!/bin/sh\nexit 1\n", "does not run"),
        ("not a program", "does not run"),
    ],
)
def test_a_wrong_program_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = script(tmp_path, text)
    with pytest.raises(EngineUnavailableError) as caught:
        find_s5cmd(path)
    assert path in caught.value.message
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_the_environment_holds_the_credentials_and_nothing_that_redirects() -> None:
    inherited = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy",
        "S3_ENDPOINT_URL": "http://elsewhere",
        "AWS_ENDPOINT_URL": "http://elsewhere",
        "AWS_ENDPOINT_URL_S3": "http://elsewhere",
        "AWS_PROFILE": "other",
        "AWS_ACCESS_KEY_ID": "other",
        "AWS_SESSION_TOKEN": "other",
    }
    base = {"PATH": "/bin", "HTTPS_PROXY": "http://proxy"}
    region = {"AWS_REGION": "eu-1"}
    own = StorageConfig(credentials=Credentials("id", "secret"))
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert environment(own, "eu-1", inherited) == base | region | keys
    token = StorageConfig(credentials=Credentials("id", "secret", "token"))
    assert environment(token, "", inherited) == base | keys | {"AWS_SESSION_TOKEN": "token"}
    assert environment(StorageConfig(profile="mine"), "", inherited) == base | {"AWS_PROFILE": "mine"}
    chain = {"AWS_PROFILE": "other", "AWS_ACCESS_KEY_ID": "other", "AWS_SESSION_TOKEN": "other"}
    assert environment(StorageConfig(), "", inherited) == base | chain


def test_the_command_line_names_the_endpoint_and_the_workers() -> None:
    arguments = command_line("/bin/s5cmd", "http://host:1", 16)
    assert arguments[-1] == "run"
    assert arguments[arguments.index("--endpoint-url") + 1] == "http://host:1"
    assert arguments[arguments.index("--numworkers") + 1] == "16"
    assert str(os.getpid()) in arguments
    assert "--endpoint-url" not in command_line("/bin/s5cmd", "", 16)
