"""How an agent is found, and which addresses are refused."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from controller_client.address import DEFAULT_TCP, find_address, parse_address
from controller_client.errors import AddressError


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:7447", "dns:///127.0.0.1:7447"),
        ("gpu-7.example:1", "dns:///gpu-7.example:1"),
        ("[::1]:7447", "dns:///[::1]:7447"),
        ("unix:/run/a b.sock", "unix:/run/a b.sock"),
        ("unix:///run/agent.sock", "unix:/run/agent.sock"),
    ],
)
def test_accepted(text: str, target: str) -> None:
    assert parse_address(text) == target


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":7447", "host:0", "host:65536", "host:7447x", "::1:7447", "unix:", "unix:agent.sock",
     "http://host:7447", "host:7447/path", "ho st:7447", "host:7447\n", "host:٣٣"],
)  # fmt: skip
def test_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert repr(text) in caught.value.message
    assert "HOST:PORT" in caught.value.hint


def test_the_argument_comes_first_then_the_variable_then_the_socket_then_tcp(tmp_path: Path) -> None:
    path = str(tmp_path / "agent.sock")
    variable = {"GPUSNAP_AGENT_ADDRESS": "b:2"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert find_address("a:1", environment=variable, socket=path) == "a:1"
        assert find_address(None, environment=variable, socket=path) == "b:2"
        assert find_address(None, environment={}, socket=path) == f"unix:{path}"
    assert find_address(None, environment={}, socket=str(tmp_path / "none")) == DEFAULT_TCP


def test_a_plain_file_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "agent.sock").touch()
    assert find_address(None, environment={}, socket=str(tmp_path / "agent.sock")) == DEFAULT_TCP
