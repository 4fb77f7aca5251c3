"""Operations that go on while the client comes and goes. A gate before the real store holds them at work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.gate import Gate
from tests.support.gpusnap import SECONDS, Gpusnap, TerminalSession, decoded
from tests.support.seaweed import REGION, SeaweedServer


@pytest.fixture
def gate(seaweed: SeaweedServer) -> Iterator[Gate]:
    """The way to the store, still shut."""
    gate = Gate(*seaweed.address)
    yield gate
    gate.close()


@pytest.fixture
def agent(daemon_folder: Path, seaweed: SeaweedServer, bucket: str, gate: Gate) -> Iterator[Daemon]:
    """An agent whose store is behind the gate."""
    storage = {
        "STORAGE_PROVIDER": "custom",
        "STORAGE_ENDPOINT": f"http://127.0.0.1:{gate.port}",
        "STORAGE_BUCKET": bucket,
        "STORAGE_REGION": REGION,
        "STORAGE_ACCESS_KEY_ID": seaweed.access_key,
        "STORAGE_SECRET_ACCESS_KEY": seaweed.secret_key,
    }
    daemon = Daemon(daemon_folder, storage)
    daemon.start()
    yield daemon
    gate.open()
    daemon.close()


@pytest.fixture
def gpusnap(agent: Daemon) -> Gpusnap:
    """The command, for that agent."""
    return Gpusnap(agent.address)


@pytest.fixture
def workspace(agent: Daemon) -> Path:
    """A small workspace."""
    made = agent.workspace_root / "w"
    made.mkdir()
    (made / "model.safetensors").write_bytes(os.urandom(1 << 20))
    return made


def test_ctrl_c_detaches_and_the_operation_goes_on(gpusnap: Gpusnap, workspace: Path, gate: Gate) -> None:
    session = TerminalSession(gpusnap, "snapshot", str(workspace))
    session.read_until("running")
    session.type("\x03")
    assert session.wait() == 130
    again = session.shown.rpartition("attach again with: ")[2].split()
    name = again[-1]

    gate.open()

    assert again[:-1] == ["gpusnap", *gpusnap.command()[1:], "watch"]
    watched = gpusnap.run(*again[3:])
    assert watched.code == 0
    assert gpusnap.run("snapshots").stdout.splitlines()[-1].startswith(watched.stdout.strip())
    assert name in gpusnap.run("operations").stdout


def test_sigterm_detaches_too(gpusnap: Gpusnap, workspace: Path, gate: Gate) -> None:
    process, name = start_and_read_name(gpusnap, "snapshot", str(workspace), "--json")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert f"watch {name}" in decoded(stderr)
    gate.open()
    assert gpusnap.run("watch", name).code == 0


def test_ctrl_c_before_the_agent_answers(tmp_path: Path) -> None:
    listener = Gate("127.0.0.1", 1)  # accepts, and never answers
    try:
        process = Gpusnap(f"127.0.0.1:{listener.port}").start("snapshot", str(tmp_path))
        assert listener.reached.wait(SECONDS)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=SECONDS)
    finally:
        listener.close()
    assert process.returncode == 130
    assert stdout == b""
    assert b"Traceback" not in stderr


def test_cancel_ends_it_with_1(gpusnap: Gpusnap, workspace: Path) -> None:
    process, name = start_and_read_name(gpusnap, "snapshot", str(workspace), "--json")
    assert gpusnap.run("cancel", name).code == 0
    stdout, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert json.loads(stdout.splitlines()[-2])["state"] == "cancelled"
    assert json.loads(stdout.splitlines()[-1])["reason"] == "CANCELLED"
    assert decoded(stderr).startswith("gpusnap: ")


def test_a_busy_workspace_names_the_operation_in_the_way(gpusnap: Gpusnap, workspace: Path, gate: Gate) -> None:
    name = gpusnap.run("snapshot", str(workspace), "--detach").stdout.strip()
    second = gpusnap.run("snapshot", str(workspace))
    assert second.code == 1
    assert name in second.stderr
    gate.open()
    assert gpusnap.run("watch", name).code == 0


def test_a_lost_connection_is_taken_up_again(agent: Daemon, workspace: Path, gate: Gate) -> None:
    host, _, port = agent.tcp_address.rpartition(":")
    line = Gate(host, int(port))
    line.open()
    process, name = start_and_read_name(Gpusnap(f"127.0.0.1:{line.port}"), "snapshot", str(workspace), "--json")
    line.cut()
    assert process.stderr is not None
    assert "attaching again" in decoded(process.stderr.readline())
    gate.open()

    stdout, _ = process.communicate(timeout=SECONDS)

    line.close()
    records = [json.loads(record) for record in stdout.splitlines()]
    assert process.returncode == 0, records
    assert records[-1]["record"] == "completed"
    assert {record["operation"] for record in records} == {name}
    numbers = [record["sequence"] for record in records]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 3  # after the two states that were read before the cut


def test_a_watch_survives_the_restart_of_its_agent(
    gpusnap: Gpusnap, agent: Daemon, workspace: Path, gate: Gate
) -> None:
    process, name = start_and_read_name(gpusnap, "snapshot", str(workspace), "--json")
    agent.stop(signal.SIGKILL)
    assert process.stderr is not None
    assert "attaching again" in decoded(process.stderr.readline())
    gate.open()
    agent.start()

    stdout, _ = process.communicate(timeout=SECONDS)

    records = [json.loads(line) for line in stdout.splitlines()]
    assert (records[-1]["record"], records[-1]["operation"]) == ("completed", name)
    assert [record["reason"] for record in records if record["record"] == "warning"] == ["OPERATION_CONTINUED"]
    numbers = [record["sequence"] for record in records]
    assert numbers == sorted(set(numbers))
    assert process.returncode == 0


def test_an_agent_that_stays_away_is_unreachable(gpusnap: Gpusnap, agent: Daemon, workspace: Path) -> None:
    process, name = start_and_read_name(gpusnap, "snapshot", str(workspace), "--json", "--reattach", "0.3")
    agent.stop(signal.SIGKILL)
    _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 4
    assert f"attach again to {name}" in decoded(stderr)


def test_several_hosts_have_a_progress_line_each(agent: Daemon, gate: Gate, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (agent.workspace_root / name).mkdir()
    fleet = tmp_path / "fleet"
    fleet.write_text(f"host-1 {agent.address}\nhost-2 {agent.tcp_address}\n")
    # One workspace for both hosts, so that one of them is refused: each host's line tells its own story.
    session = TerminalSession(Gpusnap(), "snapshot", str(agent.workspace_root / "one"), "--fleet", str(fleet))
    shown = session.read_until("gpusnap: host-")
    refused = shown.rpartition("gpusnap: host-")[2][0]
    gate.open()
    assert session.wait() == 1
    running = {"1": "host-2", "2": "host-1"}[refused]
    lines = [line.strip() for line in session.shown.replace("\r", "\n").splitlines()]
    assert any(line.startswith(f"{running}: ") for line in lines)
    assert any(line.startswith(f"{running}  succeeded") for line in lines)


def start_and_read_name(gpusnap: Gpusnap, *words: str) -> tuple[subprocess.Popen[bytes], str]:
    """Starts a command with ``--json`` and returns it and its operation's name once that runs."""
    process = gpusnap.start(*words)
    assert process.stdout is not None
    while True:
        line = process.stdout.readline()
        assert line, process.communicate(timeout=SECONDS)
        record = json.loads(line)
        if record.get("state") == "running":
            return process, record["operation"]
