"""The command `gpusnap` against a real agent over a local store."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.gpusnap import PROGRAM, Ended, Gpusnap, TerminalSession
from tests.support.seaweed import REGION, SeaweedServer


@pytest.fixture(scope="module")
def agent() -> Iterator[Daemon]:
    """One agent for all tests here; each has a repository of its own."""
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-"))
    daemon = Daemon(folder)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def gpusnap(agent: Daemon) -> Gpusnap:
    """The command, for that agent."""
    return Gpusnap(agent.address)


@pytest.fixture
def workspace(agent: Daemon) -> Path:
    """A small workspace with odd names."""
    root = Path(tempfile.mkdtemp(dir=agent.workspace_root))
    made = root / "w"
    (made / "sub").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(os.urandom(1 << 20))
    (made / "sub" / "notes.txt").write_text("notes")
    (made / "link").symlink_to("sub/notes.txt")
    with open(os.fsencode(made) + b"/odd\n\x1b\xff", "wb") as file:
        file.write(b"odd")
    return made


@pytest.fixture
def storage(workspace: Path) -> list[str]:
    """Options that name an empty repository."""
    folder = workspace.parent / "repo"
    folder.mkdir()
    return ["--provider", "local", "--endpoint", str(folder)]


def test_there_and_back(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    target = workspace.parent / "restored"
    saved = ok(gpusnap.run("snapshot", str(workspace), *storage))
    snapshot_id = saved.stdout.strip()
    assert "3 files, 1.0 MiB" in saved.stderr
    assert snapshot_id in ok(gpusnap.run("snapshots", *storage)).stdout

    restored = ok(gpusnap.run("restore", snapshot_id[:-3], str(target), *storage))

    assert restored.stdout.strip() == snapshot_id
    assert tree(target) == tree(workspace)
    shown = ok(gpusnap.run("show", "latest", *storage)).stdout
    assert f"workspace    {workspace}" in shown
    assert "models       1 file, 1.0 MiB" in shown


def test_files_shows_odd_names_safely_and_raw(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    ok(gpusnap.run("snapshot", str(workspace), *storage))
    names = ok(gpusnap.run("files", "latest", "--names", *storage)).stdout.splitlines()
    assert names == [".", "link", "model.safetensors", r"odd\n\x1b\xff", "sub", "sub/notes.txt"]
    raw = subprocess.run(gpusnap.command("files", "latest", "-0", *storage), capture_output=True, check=True).stdout
    assert raw.split(b"\0") == [b".", b"link", b"model.safetensors", b"odd\n\x1b\xff", b"sub", b"sub/notes.txt", b""]
    below = ok(gpusnap.run("files", "latest", "sub", *storage)).stdout.splitlines()
    assert [line.split()[-1] for line in below] == ["sub", "sub/notes.txt"]
    assert below[1].startswith("-rw")
    entries = ok(gpusnap.run("files", "latest", "--json", *storage)).records
    assert {entry["path_base64"] for entry in entries if "path_base64" in entry} == {"b2RkChv/"}
    nothing = gpusnap.run("files", "latest", "none", *storage)
    assert nothing.code == 1
    assert_one_line(nothing, "no path none")


def test_a_snapshot_that_cannot_be_read_hides_no_other(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    damaged, whole = (ok(gpusnap.run("snapshot", str(workspace), *storage)).stdout.strip() for _ in range(2))
    manifest = workspace.parent / "repo" / "snapshots" / damaged / "manifest"
    manifest.write_bytes(manifest.read_bytes()[:-1])

    listed = gpusnap.run("snapshots", *storage)

    assert listed.code == 3
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == [whole, damaged]
    assert "unreadable" in listed.stdout.splitlines()[2]
    assert f"gpusnap: a snapshot cannot be read: {damaged}: " in listed.stderr
    records = gpusnap.run("snapshots", "--json", *storage).records
    assert [bool(record["problem"]) for record in records] == [False, True]
    ok(gpusnap.run("restore", "latest", str(workspace.parent / "restored"), *storage))


def test_diff_names_each_kind_of_change(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    first = ok(gpusnap.run("snapshot", str(workspace), *storage)).stdout.strip()
    (workspace / "added").touch()
    (workspace / "sub" / "notes.txt").write_text("other notes")
    (workspace / "model.safetensors").chmod(0o600)
    (workspace / "link").unlink()
    (workspace / "link").mkdir()
    os.unlink(os.fsencode(workspace) + b"/odd\n\x1b\xff")
    second = ok(gpusnap.run("snapshot", str(workspace), *storage)).stdout.strip()

    found = ok(gpusnap.run("diff", first, second, *storage))

    assert found.stdout.splitlines() == [
        "m .", "A added", "T link", "m model.safetensors", r"D odd\n\x1b\xff", "M sub/notes.txt",
    ]  # fmt: skip
    assert found.stderr == "1 added, 1 deleted, 1 modified, 2 with other metadata, 1 of another type\n"
    changes = ok(gpusnap.run("diff", first, second, "sub", "--json", *storage)).records
    assert [(change["path"], change["kind"]) for change in changes] == [("sub/notes.txt", "content")]
    assert set(changes[0]["attributes"]) == {"size", "modify_time"}
    assert gpusnap.run("diff", first, first, *storage).stderr == "no differences\n"


def test_json_gives_every_event_and_nothing_else(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    records = ok(gpusnap.run("snapshot", str(workspace), "--json", *storage)).records
    assert [record["sequence"] for record in records] == sorted({record["sequence"] for record in records})
    assert {"state_changed", "scan_totals", "chunk_finished", "completed"} <= {record["record"] for record in records}
    assert records[-1]["record"] == "completed"
    listed = ok(gpusnap.run("snapshots", "--json", *storage)).records
    assert [snapshot["id"] for snapshot in listed] == [records[-1]["result"]["snapshot_id"]]
    failed = gpusnap.run("show", "none", "--json", *storage)
    assert failed.code == 1
    assert [record["reason"] for record in failed.records] == ["SNAPSHOT_NOT_FOUND"]


def test_patterns_and_paths(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    patterns = workspace.parent / "patterns"
    patterns.write_text("# big\n*.safetensors\n")
    target = workspace.parent / "restored"
    ok(gpusnap.run("snapshot", str(workspace), "--exclude", "odd*", "--exclude-from", str(patterns), *storage))
    names = ok(gpusnap.run("files", "latest", "--names", *storage)).stdout.split()
    assert names == [".", "link", "sub", "sub/notes.txt"]
    ok(gpusnap.run("restore", "latest", str(target), "--path", "sub", *storage))
    assert set(tree(target)) == {b"sub", b"sub/notes.txt"}


def test_detach_then_watch(gpusnap: Gpusnap, workspace: Path, storage: list[str], agent: Daemon) -> None:
    detached = ok(gpusnap.run("snapshot", str(workspace), "--detach", *storage))
    name = detached.stdout.strip()
    assert f"gpusnap --agent {agent.address} watch {name}" in detached.stderr
    watched = ok(gpusnap.run("watch", name))
    assert watched.stdout.strip() in ok(gpusnap.run("snapshots", *storage)).stdout
    assert name in ok(gpusnap.run("operations", "-n", "1")).stdout
    assert ok(gpusnap.run("cancel", name)).stdout.strip() == f"{name} succeeded"


def test_the_same_request_id_attaches(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    words = ("snapshot", str(workspace), "--request-id", f"id-of-{workspace}", *storage)
    assert ok(gpusnap.run(*words)).stdout == ok(gpusnap.run(*words)).stdout
    assert len(ok(gpusnap.run("snapshots", "--json", *storage)).records) == 1


def test_warnings_are_shown_and_exit_with_3(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    target = workspace.parent / "restored"
    ok(gpusnap.run("snapshot", str(workspace), *storage))
    (target / "model.safetensors" / "in the way").mkdir(parents=True)
    ended = gpusnap.run("restore", "latest", str(target), "--overwrite", *storage)
    assert ended.code == 3
    assert "warning: NOT_REPLACED" in ended.stderr
    assert "model.safetensors" in ended.stderr
    assert "1 warning" in ended.stderr.splitlines()[-1]


def test_failures_are_one_line_and_exit_with_1(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    ok(gpusnap.run("snapshot", str(workspace), *storage))
    for words, text in (
        (("snapshot", "/etc"), "/etc"),
        (("restore", "zzz", str(workspace.parent / "r")), "zzz"),
        (("restore", "latest", str(workspace)), "not empty"),
    ):
        ended = gpusnap.run(*words, *storage)
        assert ended.code == 1, words
        assert ended.stdout == ""
        assert_one_line(ended, text)
    assert_one_line(gpusnap.run("watch", "none"), "none")


def test_damage_exits_with_5_and_names_chunk_and_file(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    ok(gpusnap.run("snapshot", str(workspace), *storage))
    chunk = max((path for path in Path(storage[-1]).glob("**/chunks/*/*")), key=lambda path: path.stat().st_size)
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.chmod(0o600)
    chunk.write_bytes(damaged)
    ended = gpusnap.run("restore", "latest", str(workspace.parent / "restored"), *storage)
    assert ended.code == 5
    assert chunk.name in ended.stderr
    assert "model.safetensors" in ended.stderr


def test_usage_exits_with_2(gpusnap: Gpusnap) -> None:
    for words in (
        ("snapshot",),
        ("snapshot", "relative"),
        ("bogus",),
        ("delete", "some-id"),
        ("info", "--fleet", "/n"),
    ):
        ended = gpusnap.run(*words)
        assert ended.code == 2, words
        assert_one_line(ended, "(")


def test_an_absent_agent_exits_with_4() -> None:
    absent = Gpusnap("unix:/nonexistent/agent.sock")
    for words in (("info",), ("snapshot", "/w"), ("doctor",)):
        ended = absent.run(*words)
        assert ended.code == 4, words
        assert "not reachable: No such file or directory" in ended.stdout + ended.stderr


def test_the_agent_is_found_by_the_variable(agent: Daemon) -> None:
    ended = ok(Gpusnap(environ={"GPUSNAP_AGENT_ADDRESS": agent.tcp_address}).run("info"))
    assert str(agent.workspace_root) in ended.stdout


def test_several_agents_at_once(agent: Daemon, workspace: Path, storage: list[str]) -> None:
    with tempfile.NamedTemporaryFile("w") as fleet:
        fleet.write(f"one {agent.address}  # the first\ntwo {agent.tcp_address}\n")
        fleet.flush()
        both = Gpusnap()
        saved = ok(Gpusnap(agent.address).run("snapshot", str(workspace), *storage)).stdout.strip()
        targets = workspace.parent / "restored"
        shown = ok(both.run("show", "latest", "--fleet", fleet.name, *storage)).stdout.splitlines()
        assert f"one: id           {saved}" in shown
        assert f"two: id           {saved}" in shown
        # Both agents are the same one, so the second restore into the same target is refused or fails.
        ended = both.run("restore", "latest", str(targets), "--fleet", fleet.name, *storage)
        assert ended.code == 1
        assert ended.stdout.split(": ")[1].strip() == saved
        records = ok(both.run("info", "--json", "--fleet", fleet.name)).records
        assert {record["agent"] for record in records} == {"one", "two"}
        assert_one_line(both.run("files", "latest", "-0", "--fleet", fleet.name), "--null")


def test_one_absent_agent_does_not_keep_the_others_from_answering(agent: Daemon) -> None:
    ended = Gpusnap(agent.address, "unix:/nonexistent/agent.sock").run("info")
    assert ended.code == 4
    assert f"{agent.address}: version" in ended.stdout
    assert_one_line(ended, "unix:/nonexistent/agent.sock")


def test_delete_asks_on_a_terminal(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    snapshot_id = ok(gpusnap.run("snapshot", str(workspace), *storage)).stdout.strip()
    for answer, code in (("\n", 1), ("\x03", 130), ("y\n", 0)):
        session = TerminalSession(gpusnap, "delete", snapshot_id, *storage)
        session.read_until("[y/N]")
        session.type(answer)
        assert session.wait() == code
    assert gpusnap.run("snapshots", *storage).stderr == "no snapshots\n"


def test_delete_with_yes(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    snapshot_id = ok(gpusnap.run("snapshot", str(workspace), *storage)).stdout.strip()
    assert ok(gpusnap.run("delete", snapshot_id, "--yes", *storage)).stdout.strip() == snapshot_id
    assert gpusnap.run("snapshots", *storage).stderr == "no snapshots\n"


def test_info_says_why_there_are_so_many_workers_and_connections(daemon_folder: Path) -> None:
    numbers = {"GPUSNAP_TRANSFER__CONNECTIONS": "5", "GPUSNAP_TRANSFER__WORKERS": "3"}
    bucket = {"STORAGE_PROVIDER": "s3", "STORAGE_BUCKET": "bucket", "STORAGE_REGION": "us-east-1"}
    for environ, connections, workers in (
        (numbers, "5: [transfer] connections = 5", "3: [transfer] workers = 3"),
        ({}, "64: the default; [transfer] connections would say otherwise", "[transfer] workers would say otherwise"),
    ):
        daemon = Daemon(daemon_folder, bucket, environ)
        try:
            daemon.start()
            facts = dict(line.split(maxsplit=1) for line in ok(Gpusnap(daemon.address).run("info")).stdout.splitlines())
        finally:
            daemon.close()
        assert facts["connections"] == connections
        assert facts["workers"].endswith(workers)
        assert facts["staging"].startswith(f"{daemon.staging_dir}: ")


def test_doctor_says_what_is_wrong(gpusnap: Gpusnap, storage: list[str]) -> None:
    lines = ok(gpusnap.run("doctor")).stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    checked = {"agent", "health", "workspaces", "s5cmd", "staging", "storage"}
    assert checked <= {line.split()[1] for line in lines}
    ended = gpusnap.run("doctor", *storage[:-1], "/nonexistent/repo")
    assert ended.code == 1
    assert any(line.startswith("failed  storage") and line.endswith(")") for line in ended.stdout.splitlines())


def test_credentials_are_sent_when_asked_for(agent: Daemon, seaweed: SeaweedServer, bucket: str) -> None:
    place = ["--provider", "custom", "--bucket", bucket, "--endpoint", seaweed.endpoint, "--region", REGION]
    keys = {"AWS_ACCESS_KEY_ID": seaweed.access_key, "AWS_SECRET_ACCESS_KEY": seaweed.secret_key}
    ok(Gpusnap(agent.address, environ=keys).run("doctor", *place, "--send-credentials"))
    wrong = Gpusnap(agent.address, environ={**keys, "AWS_SECRET_ACCESS_KEY": "wrong"})
    ended = wrong.run("doctor", *place, "--send-credentials")
    assert ended.code == 1
    assert [line.split()[:3] for line in ended.stdout.splitlines()][-1] == ["failed", "storage", "bucket"]
    assert "wrong" not in ended.stdout + ended.stderr


def test_a_reader_that_goes_away_is_no_error(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    for number in range(2000):
        (workspace / f"a rather long name of a small file, to fill a pipe {number}").touch()
    ok(gpusnap.run("snapshot", str(workspace), *storage))
    with gpusnap.start("files", "latest", *storage) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_progress_is_shown_on_a_terminal_only(gpusnap: Gpusnap, workspace: Path, storage: list[str]) -> None:
    session = TerminalSession(gpusnap, "snapshot", str(workspace), *storage)
    assert session.wait() == 0
    shown = session.shown
    assert f"snapshot of {workspace}  succeeded" in shown
    assert "pack" in shown
    assert "100 %" in shown
    assert "━" in shown
    last = shown.strip().splitlines()[-1]
    assert last in ok(gpusnap.run("snapshots", *storage)).stdout

    off = ok(gpusnap.run("snapshot", str(workspace), *storage))
    assert len(off.stderr.splitlines()) == 1
    assert "━" not in off.stderr
    assert ok(gpusnap.run("snapshot", str(workspace), "-q", *storage)).stderr == ""
    session = TerminalSession(gpusnap, "snapshot", str(workspace), "--quiet", *storage)
    assert session.wait() == 0
    assert "━" not in session.shown


def test_help_and_version() -> None:
    for words in ([], ["snapshot"]):
        shown = subprocess.run([PROGRAM, *words, "--help"], capture_output=True, text=True, check=True).stdout
        assert shown.startswith("usage: gpusnap")
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("gpusnap ")


def ok(ended: Ended) -> Ended:
    """Returns how a command ended that must have succeeded."""
    assert ended.code == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def assert_one_line(ended: Ended, text: str) -> None:
    """Checks that a command failed with one line on stderr that holds ``text``."""
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("gpusnap: ")
    assert text in lines[0]


def tree(root: Path) -> dict[bytes, tuple[int, bytes]]:
    """Returns mode and content of everything below a folder."""
    found: dict[bytes, tuple[int, bytes]] = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, top)
            if os.path.islink(path):
                found[relative] = (0, os.readlink(path))
            elif os.path.isdir(path):
                found[relative] = (os.stat(path).st_mode, b"")
            else:
                with open(path, "rb") as file:
                    found[relative] = (os.stat(path).st_mode, file.read())
    return found
