"""The signs of life that the process of an operation gives, whatever it waits for."""

from __future__ import annotations

import socket
from pathlib import Path

from agent.config.model import Credentials, Provider, StorageConfig
from agent.events import Alive
from agent.snapshot.request import SnapshotRequest
from tests.support.processes import wait_until
from tests.support.worker import Worker


def test_one_that_waits_for_a_silent_store(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        storage = StorageConfig(
            provider=Provider.CUSTOM,
            bucket="bucket",
            endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}",
            credentials=Credentials("id", "secret"),
        )
        worker = Worker(SnapshotRequest(bytes(tmp_path), str(tmp_path), storage))
        try:
            wait_until(lambda: worker.seen.count(Alive()) >= 2, "two signs of life")
            assert not worker.has_ended
        finally:
            worker.close()
