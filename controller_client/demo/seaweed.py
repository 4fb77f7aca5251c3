"""A real S3 server of one's own: SeaweedFS (``weed mini``) with every port free and every file in one folder."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import time
from collections.abc import Sequence
from typing import IO

from controller_client.demo.children import (
    free_port,
    kill_child,
    program_beside_python,
    show_command,
    start_child,
    stop_child,
)

_SERVERS = ("master", "volume", "filer", "s3", "admin")
# SeaweedFS expects the gRPC port of each of its servers here, and its worker finds the admin server in no other way.
_GRPC_OFFSET = 10_000


class SeaweedError(Exception):
    """The server did not start; the message ends with what it said last."""


class Seaweed:
    """An authenticated S3 server on loopback. Its data survive ``kill`` and ``start``.

    Args:
        folder: an existing folder for its data and its log.
        access_key: the access key id of its administrator.
        secret_key: that key's secret.
        buckets: buckets to make at the first start.
    """

    def __init__(self, folder: str, access_key: str, secret_key: str, buckets: Sequence[str] = ()) -> None:
        self.folder = folder
        self.access_key = access_key
        self.secret_key = secret_key
        self._buckets = tuple(buckets)
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}

    @property
    def endpoint(self) -> str:
        """The URL of its S3 interface."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def command_line(self) -> str:
        """How a shell starts it again."""
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return show_command(keys, self._arguments())

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, seconds: float = 60.0) -> None:
        """Starts it and returns once it answers; a further start uses the same ports and data.

        Raises:
            SeaweedError: it ended, or did not answer within ``seconds``.
        """
        if self.running:
            return
        for attempts_left in (2, 1, 0):
            chosen_now = not self._ports
            if chosen_now:
                taken: set[int] = set()
                self._ports = {server: free_port(taken, _GRPC_OFFSET) for server in _SERVERS}
            try:
                self._start_once(time.monotonic() + seconds)
                return
            except SeaweedError:
                # Another program may have taken a port since it was found free.
                if not (chosen_now and attempts_left):
                    raise
                self._ports = {}

    def stop(self) -> None:
        """Ends it in order and removes the sockets it leaves in /tmp."""
        if self._process is not None:
            stop_child(self._process, 10.0)
        self._forget()

    def kill(self) -> None:
        """Kills it as a power cut would."""
        if self._process is not None:
            kill_child(self._process)
        self._forget()

    def _start_once(self, deadline: float) -> None:
        self._log = open(os.path.join(self.folder, "weed.log"), "ab")  # noqa: SIM115 - open as long as the process
        environment = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "HOME": self.folder,
            "PATH": os.environ.get("PATH", os.defpath),
        }
        self._process = start_child(self._arguments(), environment=environment, log=self._log, folder=self.folder)
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                status = self._process.poll()
                self.kill()
                what = "did not answer in time" if status is None else f"ended with status {status}"
                raise SeaweedError(f"weed mini {what}: {self._last_words()}")
            time.sleep(0.02)

    def _arguments(self) -> list[str]:
        ports = [f"-{server}.port={port}" for server, port in self._ports.items()]
        grpc_ports = [f"-{server}.port.grpc={port + _GRPC_OFFSET}" for server, port in self._ports.items()]
        return [
            program_beside_python("weed"),
            "mini",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *ports,
            *grpc_ports,
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.localSocket={self.folder}/s3.sock",
            f"-filer.localSocket={self.folder}/filer.sock",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=0",
            f"-bucket={','.join(self._buckets)}",
        ]

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports["s3"], timeout=2.0)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/healthz")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def _last_words(self) -> str:
        with open(os.path.join(self.folder, "weed.log"), "rb") as log:
            lines = log.read().decode("utf-8", "replace").split("\n")
        return " / ".join(line.strip() for line in lines[-6:] if line.strip()) or "it said nothing"

    def _forget(self) -> None:
        self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None
        for server, port in self._ports.items():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"/tmp/seaweedfs-{server}-grpc-{port + _GRPC_OFFSET}.sock")  # noqa: S108 - its choice, not ours
