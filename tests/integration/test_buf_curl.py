"""A client that nobody here wrote: buf curl, with nothing but the server's reflection."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2

from tests.support.daemon import Daemon
from tests.support.rpc import SECONDS


def curl(daemon: Daemon, method: str, request: dict[str, Any]) -> tuple[list[dict[str, Any]], str, int]:
    """Calls a method and returns the messages of the answer, what stands on stderr, and the exit status."""
    buf = Path(os.path.dirname(sys.executable)) / "buf"
    done = subprocess.run(
        [
            *(buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(request)),
            f"http://{daemon.tcp_address}/gpusnap.v1.SnapshotAgent/{method}",
        ],
        env={**daemon.environ, "BUF_CACHE_DIR": str(daemon.folder / "buf")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    decoder = json.JSONDecoder()
    messages = []
    rest = done.stdout.strip()
    while rest:
        message, end = decoder.raw_decode(rest)
        messages.append(message)
        rest = rest[end:].lstrip()
    return messages, done.stderr, done.returncode


def test_a_snapshot_and_its_events(daemon: Daemon, workspace: Path) -> None:
    messages, errors, status = curl(daemon, "Snapshot", {"workspace": str(workspace)})
    assert status == 0, errors
    events = [message["event"] for message in messages]
    assert events[0]["stateChanged"] == {"state": "OPERATION_STATE_PENDING"}
    assert any("chunkFinished" in event for event in events)
    assert events[-1]["completed"]["state"] == "OPERATION_STATE_SUCCEEDED"
    numbers = [int(event["sequence"]) for event in events]
    assert numbers == sorted(set(numbers))

    [listed], _, _ = curl(daemon, "ListSnapshots", {})
    assert [one["id"] for one in listed["snapshots"]] == [events[-1]["completed"]["result"]["snapshotId"]]


@pytest.mark.parametrize(
    ("method", "request_fields"),
    [("Snapshot", {"workspace": "relative"}), ("Restore", {"snapshot": "latest", "target": "relative"})],
)
def test_an_error_with_its_details(daemon: Daemon, method: str, request_fields: dict[str, Any]) -> None:
    messages, errors, status = curl(daemon, method, request_fields)
    assert status != 0
    assert messages == []
    answer = json.loads(errors)
    assert answer["code"] == "invalid_argument"
    assert "is not an absolute path" in answer["message"]
    [detail] = answer["details"]
    assert detail["type"] == "google.rpc.ErrorInfo"
    info = error_details_pb2.ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
    assert (info.domain, info.reason) == ("gpusnap", "INVALID_REQUEST")
