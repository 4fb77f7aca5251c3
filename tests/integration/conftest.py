"""A real agent for each test that asks for one."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

from agent.storage.loan import Arrival
from agent.storage.stream_loans import StreamLoans
from tests.support.daemon import Daemon
from tests.support.rpc import connected


@pytest.fixture
def daemon_folder() -> Iterator[Path]:
    """A folder with a path that is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stopped_daemon(daemon_folder: Path) -> Iterator[Daemon]:
    """An agent over a local store that is not started yet."""
    daemon = Daemon(daemon_folder)
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(stopped_daemon: Daemon) -> Daemon:
    """An agent over a local store that answers."""
    stopped_daemon.start()
    return stopped_daemon


@pytest.fixture
def stub(daemon: Daemon) -> Iterator[SnapshotAgentStub]:
    """A connection to the agent."""
    with connected(daemon.address) as connection:
        yield connection


@pytest.fixture
def silent_store() -> Iterator[pb.Storage]:
    """A store that accepts connections and never says a word: what uses it goes on until it is stopped."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        keys = pb.Credentials(access_key_id="the-id", secret_access_key="the-very-secret-key")
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield pb.Storage(provider=pb.PROVIDER_CUSTOM, bucket="bucket", endpoint=endpoint, credentials=keys)


@pytest.fixture
def workspace(stopped_daemon: Daemon) -> Path:
    """A small workspace that the agent may save."""
    folder = stopped_daemon.workspace_root / "project"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "main.py").write_text("print('hello')\n")
    (folder / "model.safetensors").write_bytes(b"\x01\x02" * 50_000)
    (folder / "link").symlink_to("code/main.py")
    return folder


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> list[Arrival | None]:
    """What comes of each loan; none for what was left to the engine."""
    found: list[Arrival | None] = []
    inner = StreamLoans._take_back

    def take_back(self: StreamLoans, size: int, arrival: Arrival | None) -> None:
        found.append(arrival)
        inner(self, size, arrival)

    monkeypatch.setattr(StreamLoans, "_take_back", take_back)
    return found
