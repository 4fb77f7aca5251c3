"""The Python client against a real agent: its documented examples, its errors, its lists, and its threads."""

from __future__ import annotations

import asyncio
import contextlib
import doctest
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controller_client import AgentClient, SyncAgentClient, client, errors, model, sync
from tests.support.daemon import Daemon

README = Path(client.__file__).parent / "README.md"


@pytest.fixture(scope="module")
def agent() -> Iterator[Daemon]:
    """One agent for all tests here."""
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-"))
    daemon = Daemon(folder)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def root(agent: Daemon) -> Path:
    """A folder of the test's own below the workspace roots."""
    return Path(tempfile.mkdtemp(dir=agent.workspace_root))


@pytest.fixture
def workspace(root: Path) -> Path:
    """A workspace with two files."""
    made = root / "w"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "notes.txt").write_text("notes")
    return made


@pytest.fixture
def storage(root: Path) -> model.Storage:
    """An empty repository."""
    (root / "repo").mkdir()
    return model.Storage(model.Provider.LOCAL, endpoint=str(root / "repo"))


@pytest.mark.parametrize("name", ["AgentClient", "SyncAgentClient"])
def test_the_examples_of_the_docstrings_run(name: str, stopped_daemon: Daemon) -> None:
    stopped_daemon.start()
    workspace = stopped_daemon.workspace_root / "w"
    workspace.mkdir()
    (workspace / "model.safetensors").write_bytes(b"weights")
    (workspace / "notes.txt").write_text("notes")
    names = {
        "address": stopped_daemon.address,
        "workspace": str(workspace),
        "target": str(stopped_daemon.workspace_root / "restored"),
        "model": model,
    }
    holder = {"AgentClient": client, "SyncAgentClient": sync}[name]
    report = io.StringIO()
    outcome = doctest.TestResults(0, 0)
    for example in doctest.DocTestFinder(recurse=False).find(getattr(holder, name), name, holder, extraglobs=names):
        outcome = doctest.DocTestRunner().run(example, out=report.write)
    assert outcome.attempted > 0
    assert outcome.failed == 0, report.getvalue()


def test_the_commands_of_the_readme_run(agent: Daemon, workspace: Path, root: Path) -> None:
    script = "\n".join(re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL))
    assert script.count("gpusnap ") > 8
    script = script.replace("/workspace", shlex.quote(str(workspace))).replace("/restored", str(root / "restored"))
    environ = {
        **os.environ,
        "GPUSNAP_AGENT_ADDRESS": agent.address,
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], env=environ, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (root / "restored" / "notes.txt").read_text() == "notes"


def test_the_python_of_the_readme_runs(
    agent: Daemon, workspace: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUSNAP_AGENT_ADDRESS", agent.address)
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(examples) == 2
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for example in examples:
            code = example.replace("/workspace", str(workspace)).replace("/elsewhere", str(root / "elsewhere"))
            exec(compile(code, str(README), "exec"), {"__name__": "__main__"})
    assert "SNAPSHOT_NOT_FOUND" in printed.getvalue()
    assert "2 files, 0 warnings" in printed.getvalue()


async def test_errors_have_their_classes(agent: Daemon, workspace: Path, root: Path, storage: model.Storage) -> None:
    async with AgentClient(agent.address) as connected:
        with pytest.raises(errors.PathNotAllowedError) as refused:
            await connected.snapshot("/etc")
        assert refused.value.hint
        assert not refused.value.retryable
        with pytest.raises(errors.PathNotFoundError):
            await connected.snapshot(str(root / "none"))
        with pytest.raises(errors.OperationNotFoundError):
            await connected.get_operation("none")
        with pytest.raises(errors.OperationNotFoundError):
            await connected.watch("none").result()
        with pytest.raises(errors.OperationNotFoundError):
            await connected.cancel("none")
        with pytest.raises(errors.SnapshotNotFoundError):
            await connected.get_snapshot("none", storage=storage)
        with pytest.raises(errors.SnapshotNotFoundError):
            async for _ in connected.list_files("none", storage=storage):
                pass
        with pytest.raises(errors.InvalidRequestError):
            await connected.delete_snapshot("latest", storage=storage)
        saved = await (await connected.snapshot(str(workspace), storage=storage)).result()
        with pytest.raises(errors.TargetNotEmptyError):
            await (await connected.restore(saved.snapshot_id, str(workspace), storage=storage)).result()
        await (await connected.snapshot(str(workspace), storage=storage, request_id="one")).result()
        with pytest.raises(errors.RequestIdReusedError):
            await connected.snapshot(str(root), storage=storage, request_id="one")


async def test_an_absent_agent_is_told_at_once() -> None:
    async with AgentClient("unix:/nonexistent/agent.sock") as nobody:
        for call in (nobody.info(), nobody.snapshot("/w"), nobody.health(), nobody.get_operation("x")):
            with pytest.raises(errors.AgentUnreachableError, match=r"unix:/nonexistent/agent\.sock"):
                await call


async def test_lists_fetch_their_pages_as_they_are_read(
    agent: Daemon, workspace: Path, storage: model.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FILES_PAGE", 2)
    for number in range(4):
        (workspace / f"file {number}").touch()
    async with AgentClient(agent.address) as connected:
        saved = await (await connected.snapshot(str(workspace), storage=storage)).result()
        entries = [entry async for entry in connected.list_files("latest", storage=storage)]
        assert [entry.path for entry in entries] == [
            b"", b"file 0", b"file 1", b"file 2", b"file 3", b"model.safetensors", b"notes.txt",
        ]  # fmt: skip
        below = [entry.path async for entry in connected.list_files("latest", b"notes.txt", storage=storage)]
        assert below == [b"notes.txt"]
        assert [snapshot.id async for snapshot in connected.list_snapshots(storage=storage)] == [saved.snapshot_id]


async def test_health_info_and_storage(agent: Daemon, storage: model.Storage) -> None:
    async with AgentClient(agent.tcp_address) as connected:
        assert await connected.health() is model.HealthStatus.SERVING
        info = await connected.info()
        assert info.workspace_roots == (str(agent.workspace_root),)
        assert info.storage is not None
        assert info.storage.location == str(agent.repository)
        check = await connected.check_storage(storage=storage)
        assert check.ok
        assert [step.name for step in check.steps] == ["bucket", "write", "read", "list", "delete"]


def test_threads_share_a_synchronous_client(agent: Daemon, root: Path, storage: model.Storage) -> None:
    def save(number: int) -> str:
        workspace = root / f"w{number}"
        workspace.mkdir()
        (workspace / "file").write_text(str(number))
        return connected.snapshot(str(workspace), storage=storage).result().snapshot_id

    with SyncAgentClient(agent.address) as connected, ThreadPoolExecutor(3) as threads:
        saved = set(threads.map(save, range(3)))
        assert len(saved) == 3
        assert {snapshot.id for snapshot in connected.list_snapshots(storage=storage)} == saved


def test_a_synchronous_client_ends_its_thread_and_says_so(agent: Daemon) -> None:
    before = threading.active_count()
    connected = SyncAgentClient(agent.address)
    operations = connected.list_operations()
    next(operations, None)
    connected.close()
    connected.close()
    assert threading.active_count() <= before + 1  # gRPC keeps one thread of its own
    with pytest.raises(RuntimeError, match="closed"):
        connected.info()
    with pytest.raises(errors.AddressError):
        SyncAgentClient("nonsense")


async def test_synchronous_and_asynchronous_clients_side_by_side(
    agent: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(connected: SyncAgentClient) -> None:
        for _ in range(50):
            connected.health()

    async with AgentClient(agent.address) as asynchronous:
        with SyncAgentClient(agent.address) as one, SyncAgentClient(agent.address) as two:
            threads = [asyncio.to_thread(ask, connected) for connected in (one, two)]
            calls = [asynchronous.info() for _ in range(50)]
            await asyncio.gather(*threads, *calls)
    assert not caplog.records
