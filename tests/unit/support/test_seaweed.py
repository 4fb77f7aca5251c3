"""The S3 server that other tests trust."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from tests.support.seaweed import SeaweedServer


def test_objects_survive_a_kill(seaweed: SeaweedServer, bucket: str) -> None:
    content = os.urandom(5_000_000)
    seaweed.client().put_object(Bucket=bucket, Key="a/b", Body=content)
    endpoint = seaweed.endpoint
    seaweed.kill()
    with pytest.raises(EndpointConnectionError):
        seaweed.client().get_object(Bucket=bucket, Key="a/b")
    seaweed.start()
    assert seaweed.endpoint == endpoint
    deadline = time.monotonic() + 30
    while True:
        try:
            assert seaweed.client().get_object(Bucket=bucket, Key="a/b")["Body"].read() == content
            return
        except ClientError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_wrong_keys_are_refused(seaweed: SeaweedServer, bucket: str) -> None:
    wrong = SeaweedServer(seaweed.folder, seaweed.access_key, "wrong-secret-key")
    wrong._ports = seaweed._ports
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        wrong.client().list_objects_v2(Bucket=bucket)


def test_it_dies_with_the_process_that_started_it(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, time; from controller_client.demo.seaweed import Seaweed\n"
        "server = Seaweed(sys.argv[1], 'key-id', 'key-secret'); server.start()\n"
        "print(server._process.pid, flush=True)\n"
        "time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    deadline = time.monotonic() + 30
    while _lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
