"""The stores that tools are measured against, and the link that leads to them."""

from __future__ import annotations

import contextlib
import enum
import math
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from controller_client.demo.children import free_port, start_child, stop_child
from tests.benchmarks.nginx import Nginx, make_certificate
from tests.support.pipelines import memory_folder
from tests.support.processes import wait_until
from tests.support.seaweed import REGION, SeaweedServer

ACCESS_KEY = "benchmark"
SECRET_KEY = "benchmark-secret"
ROOT = Path(__file__).parents[2]


class StoreKind(enum.Enum):
    """Which server: a real S3 server, or one that costs next to nothing and can do little."""

    SEAWEED = "seaweed"
    NGINX = "nginx"


class StoreMissingError(Exception):
    """A store cannot be started, as a program is missing; the message names it."""


class Server(Protocol):
    """What keeps the objects."""

    def make_bucket(self) -> str:
        """Makes an empty bucket and returns its name."""
        ...

    def remove_bucket(self, bucket: str) -> None:
        """Removes a bucket with its objects."""
        ...


@dataclass(frozen=True)
class Bucket:
    """One bucket and the way to it. ``certificate`` is what a client must trust; ``None`` without TLS."""

    endpoint: str
    name: str
    certificate: Path | None = None
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = REGION

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which programs in Go know keys, region and what to trust."""
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        trust = {"SSL_CERT_FILE": str(self.certificate)} if self.certificate else {}
        return {**keys, "AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region, **trust}


@dataclass(frozen=True)
class Link:
    """The way to a store: Mbit/s each way, of all connections together and of each one; infinite for no limit."""

    megabits: float = math.inf
    connection_megabits: float = math.inf

    @property
    def is_unlimited(self) -> bool:
        """Whether nothing is in the way."""
        return math.isinf(self.megabits) and math.isinf(self.connection_megabits)

    def __str__(self) -> str:
        limits = (
            (self.megabits, "Mbit/s"),
            (self.connection_megabits, "Mbit/s a connection"),
        )
        return ", ".join(f"{limit:g} {unit}" for limit, unit in limits if math.isfinite(limit)) or "unlimited"


@dataclass(frozen=True)
class Store:
    """A running server and the link to it.

    Attributes:
        kind: which server it is.
        server: the server.
        endpoint: its URL as clients see it.
        certificate: what they must trust; ``None`` without TLS.
    """

    kind: StoreKind
    server: Server
    endpoint: str
    certificate: Path | None

    @property
    def name(self) -> str:
        """How the report calls it."""
        return f"{self.kind.value} over https" if self.certificate else self.kind.value

    @property
    def complete(self) -> bool:
        """Whether it has listings and multipart uploads."""
        return self.kind is StoreKind.SEAWEED

    @contextlib.contextmanager
    def bucket(self) -> Iterator[Bucket]:
        """A new bucket, removed afterwards."""
        name = self.server.make_bucket()
        try:
            yield Bucket(self.endpoint, name, self.certificate)
        finally:
            self.server.remove_bucket(name)


@contextlib.contextmanager
def open_store(kind: StoreKind, folder: Path, *, tls: bool, link: Link) -> Iterator[Store]:
    """Starts a server and, in front of it, what the link needs.

    Args:
        kind: which server.
        folder: an existing folder on a disk, for its data (nginx keeps them in memory).
        tls: whether it is reached by https.
        link: the way to it.

    Raises:
        StoreMissingError: a program is missing.
    """
    with contextlib.ExitStack() as stack:
        try:
            certificate = make_certificate(_subfolder(folder, "tls")) if tls else None
            server, port = _nginx(stack, certificate) if kind is StoreKind.NGINX else _seaweed(stack, folder)
            if certificate and kind is not StoreKind.NGINX:
                front = Nginx(_subfolder(folder, "front"), f"127.0.0.1:{port}", certificate)
                stack.callback(front.stop)
                port = front.port
        except FileNotFoundError as error:
            raise StoreMissingError(str(error)) from error
        if not link.is_unlimited:
            port = stack.enter_context(_shaped(port, link))
        yield Store(kind, server, f"{'https' if tls else 'http'}://127.0.0.1:{port}", certificate)


def _nginx(stack: contextlib.ExitStack, certificate: Path | None) -> tuple[Server, int]:
    memory = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpusnap-nginx-", dir=memory_folder()))
    nginx = Nginx(Path(memory), certificate=certificate)
    stack.callback(nginx.stop)
    return nginx, nginx.port


def _seaweed(stack: contextlib.ExitStack, folder: Path) -> tuple[Server, int]:
    # Its sockets lie in its folder, and their paths must be short.
    short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpusnap-bench-"))) / "seaweed"
    short.symlink_to(_subfolder(folder, "seaweed"))
    seaweed = SeaweedServer(str(short), ACCESS_KEY, SECRET_KEY)
    seaweed.start()
    stack.callback(seaweed.stop)
    return seaweed, int(seaweed.endpoint.rpartition(":")[2])


@contextlib.contextmanager
def _shaped(port: int, link: Link) -> Iterator[int]:
    own = free_port({port})
    limits = [str(link.megabits), str(link.connection_megabits)]
    arguments = [sys.executable, "-m", "tests.benchmarks.shaper", str(own), f"127.0.0.1:{port}", *limits]
    proxy = start_child(arguments, environment=os.environ, folder=str(ROOT))

    def answers() -> bool:
        assert proxy.poll() is None, "the shaping proxy ended at its start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", own)) == 0

    try:
        wait_until(answers, "the shaping proxy to start")
        yield own
    finally:
        stop_child(proxy, 5.0)


def _subfolder(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made
