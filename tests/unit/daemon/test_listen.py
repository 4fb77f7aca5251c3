"""Beginning to listen."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config.address import TcpAddress, UnixAddress
from agent.daemon.listen import SOCKET_MODE, claimed, written
from agent.errors import ConfigError


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-"))
    yield folder
    shutil.rmtree(folder)


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen(1)
    return server


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (UnixAddress("/run/a.sock"), "unix:/run/a.sock"),
        (TcpAddress("127.0.0.1", 7447), "127.0.0.1:7447"),
        (TcpAddress("::1", 0), "[::1]:0"),
    ],
)
def test_how_an_address_is_written(address: UnixAddress | TcpAddress, text: str) -> None:
    assert written(address) == text


def test_a_new_socket_is_for_the_group_only_and_its_folder_is_made(folder: Path) -> None:
    path = folder / "deep" / "er" / "a.sock"
    before = os.umask(0)
    try:
        with claimed(UnixAddress(str(path)), "key"):
            listening(path).close()
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == SOCKET_MODE


def test_a_socket_that_nobody_answers_at_is_removed(folder: Path) -> None:
    path = folder / "a.sock"
    listening(path).close()
    with claimed(UnixAddress(str(path)), "key"):
        assert not path.exists()


def test_a_socket_that_is_answered_stays(folder: Path) -> None:
    path = folder / "a.sock"
    with listening(path), pytest.raises(ConfigError, match="in use"), claimed(UnixAddress(str(path)), "[agent] listen"):
        pass
    assert path.exists()


def test_a_socket_with_a_full_queue_stays(folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
        for client in waiting:
            client.connect_ex(str(path))
        with pytest.raises(ConfigError, match="in use"), claimed(UnixAddress(str(path)), "key"):
            pass
        for client in waiting:
            client.close()
    assert path.exists()


def test_a_file_that_is_no_socket_stays(folder: Path) -> None:
    path = folder / "a.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"), claimed(UnixAddress(str(path)), "key"):
        pass
    assert path.read_text() == "precious"


def test_a_folder_that_cannot_be_made(folder: Path) -> None:
    (folder / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot listen"), claimed(UnixAddress(f"{folder}/file/a.sock"), "key"):
        pass


def test_a_port_in_use() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        port = server.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} is in use"),
            claimed(TcpAddress("127.0.0.1", port), "key"),
        ):
            pass


def test_a_free_port() -> None:
    with claimed(TcpAddress("localhost", 0), "key"):
        pass
