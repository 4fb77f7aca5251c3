"""Fleet files: what they may hold, and one clear line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller_client.cli.hosts import Host, UsageError, choose_hosts, read_fleet


def test_names_addresses_comments_and_empty_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "# the fleet\n\na 10.0.0.1:7447\n  b\tunix:/run/b.sock   # beside us\r\n")
    assert read_fleet(path) == [Host("a", "10.0.0.1:7447"), Host("b", "unix:/run/b.sock")]


def test_agents_and_fleet_add_up(tmp_path: Path) -> None:
    hosts = choose_hosts(["127.0.0.1:1"], write(tmp_path, "a host:7447"))
    assert [host.name for host in hosts] == ["127.0.0.1:1", "a"]


def test_without_any_the_agent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUSNAP_AGENT_ADDRESS", "found:1")
    assert choose_hosts([], None) == (Host("found:1", "found:1", given=False),)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("", ["no hosts"]),
        ("# nothing\n", ["no hosts"]),
        ("a host:1\nb\n", ["line 2", "1 words"]),
        ("a host:1 extra\n", ["line 1", "3 words"]),
        ("a host\n", ["line 1", "'host'", "HOST:PORT"]),
        ("a host:1\na host:2\n", ["name a", "twice"]),
        ("a host:1\nb host:1\n", ["address host:1", "twice"]),
    ],
)
def test_mistakes(tmp_path: Path, text: str, fragments: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        choose_hosts([], write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_fleet(str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_fleet(str(tmp_path / "binary"))


def test_a_wrong_address_on_the_command_line() -> None:
    with pytest.raises(UsageError, match="neither HOST:PORT nor unix:PATH"):
        choose_hosts(["nonsense"], None)


def write(folder: Path, text: str) -> str:
    path = folder / "fleet"
    path.write_bytes(text.encode())
    return str(path)
