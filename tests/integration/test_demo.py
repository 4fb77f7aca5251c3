"""`gpusnap demo` from end to end: small, without downloads, and as users break it off."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from controller_client.demo.compare import compare
from controller_client.demo.weights import write_weights
from tests.support.trees import Directory, File, HardLink, Seeded, Symlink, build, facts

PROGRAM = os.path.join(os.path.dirname(sys.executable), "gpusnap")
SECONDS = 120.0
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a path that is short enough for a socket."""
    made = Path("/tmp") / f"gsd-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    made.mkdir(mode=0o777)
    made.chmod(0o777)
    yield made
    subprocess.run(["chmod", "-R", "u+rwx", str(made)], check=False)
    shutil.rmtree(made)


def demo(*words: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Runs the demonstration to its end."""
    return subprocess.run(
        [*prefix, PROGRAM, "demo", "--size", "small", *words],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )


def test_a_workspace_goes_and_comes_back(folder: Path) -> None:
    code, shown = _on_a_terminal("--folder", str(folder))
    assert code == 0, shown
    assert "identical: " in shown
    for word in (
        "files",
        "MB of models",
        "chunks moved",
        "seconds",
        "download",
        "upload",
        "metrics: http://127.0.0.1:",
    ):
        assert word in shown
    assert 'gpusnap_operations_total{operation="restore",result="succeeded"} 1.0' in shown
    assert "MiB/s" in shown, "the commands show their progress"
    assert list(folder.iterdir()) == []
    assert _processes_naming(folder) == set()


def test_a_folder_of_one_s_own_is_only_read(folder: Path) -> None:
    own = os.fsencode(folder / "own")
    build(own, [Directory(b"", mode=0o750), Directory(b"empty"), File(b"a", Seeded(300_000, 1)), HardLink(b"b", b"a"),
                Symlink(b"c", b"a")])  # fmt: skip
    before = facts(own)
    done = demo("--workspace", str(folder / "own"), "--folder", str(folder))
    assert done.returncode == 0, done.stderr
    assert "identical: 5 entries" in done.stdout
    assert facts(own) == before
    assert [path.name for path in folder.iterdir()] == ["own"]


def test_what_is_kept_can_be_used_further(folder: Path) -> None:
    own = os.fsencode(folder / "own")
    build(own, [File(b"a", b"content")])
    done = demo("--workspace", str(folder / "own"), "--folder", str(folder), "--keep")
    assert done.returncode == 0, done.stderr
    (kept,) = folder.glob("gpusnap-demo-*")
    (restored,) = folder.glob("own.restored-*")
    assert compare(own, os.fsencode(restored)) == []
    command = [PROGRAM, "--agent", f"unix:{kept}/agent.sock", "--json", "snapshots"]
    assert " ".join(command[:3]) in done.stdout
    assert "/dev/shm" not in (kept / "start").read_text(), "all that is kept is in one folder"
    with subprocess.Popen([kept / "start"], start_new_session=True, stderr=subprocess.DEVNULL) as started:
        try:
            deadline = time.monotonic() + SECONDS
            while (listed := subprocess.run(command, capture_output=True, text=True)).returncode != 0:
                assert time.monotonic() < deadline, listed.stderr
                time.sleep(0.1)
            assert len([json.loads(line) for line in listed.stdout.splitlines()]) == 1
        finally:
            started.terminate()
            started.wait(SECONDS)
    assert _processes_naming(folder) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_breaking_it_off_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    # Shells start what runs in the background with SIGINT ignored, and these tests may be.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", PROGRAM, "demo", "--size", "small", "--folder", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "gpusnap snapshot" in line:
            break
    process.send_signal(number)
    _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, stderr
    assert "interrupted; everything is cleaned up" in stderr
    assert list(folder.iterdir()) == []
    assert _processes_naming(folder) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="is what every test shows that no root runs")
def test_it_works_without_root(folder: Path) -> None:
    # The second setpriv has lost every capability of root.
    if subprocess.run([*NOBODY, "setpriv", PROGRAM, "--version"], capture_output=True).returncode != 0:
        pytest.skip("this installation is closed to other users")
    done = demo("--folder", str(folder), prefix=NOBODY)
    assert done.returncode == 0, done.stderr
    assert "identical: " in done.stdout
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workspace", "/nowhere"], "/nowhere: not a directory; name the folder to save"),
        (["--workspace", "/"], "is restored there, beside the original"),
        (["--folder", "/tmp/" + "x" * 100], "name a shorter one with --folder"),
        (["--workspace", "/tmp"], "inside the workspace; name another place"),
    ],
)
def test_wrong_options_give_one_line(words: list[str], message: str) -> None:
    done = demo(*words)
    shutil.rmtree("/tmp/" + "x" * 100, ignore_errors=True)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_weights_are_valid_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(os.fsencode(path), 20 << 20, seed=1)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    end = 0
    for tensor in header.values():
        assert tensor["dtype"] == "BF16"
        assert tensor["data_offsets"][0] == end
        end = tensor["data_offsets"][1]
        assert end - tensor["data_offsets"][0] == 2 * tensor["shape"][0] * tensor["shape"][1]
    assert 8 + length + end == len(content)
    assert 20 << 20 <= end < 24 << 20


def _on_a_terminal(*words: str) -> tuple[int, str]:
    """Runs the demonstration on a terminal and returns its exit code and all that it shows."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "demo", "--size", "small", *words],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(controller, 65536):
            shown += piece
    os.close(controller)
    return process.wait(SECONDS), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode("utf-8", "replace"))


def _processes_naming(folder: Path) -> set[int]:
    """Returns the processes whose command line or environment names the folder."""
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        try:
            for file in ("cmdline", "environ"):
                with open(f"/proc/{entry}/{file}", "rb") as content:
                    if os.fsencode(folder) + b"/" in content.read():
                        found.add(int(entry))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
