"""From the command line to the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller_client.cli.arguments import Options, parse
from controller_client.cli.bench import BenchCommand
from controller_client.cli.browse import DiffCommand, FilesCommand, SnapshotsCommand
from controller_client.cli.hosts import UsageError
from controller_client.cli.operate import OperationsCommand, RestoreCommand, SnapshotCommand
from controller_client.model import Credentials, IfNotEmpty, Provider, Storage


def test_common_options_may_stand_on_both_sides_of_the_command() -> None:
    options, _ = parse(["--agent", "a:1", "--json", "info", "--agent", "b:2", "-q", "--reattach", "5"])
    assert options == Options(agents=("a:1", "b:2"), json=True, quiet=True, reattach_seconds=5.0)


def test_snapshot(tmp_path: Path) -> None:
    patterns = tmp_path / "patterns"
    patterns.write_text("# logs\n*.log\n\n!keep.log\n")
    arguments = f"snapshot /workspace --exclude a --exclude b --exclude-from {patterns} --include c --exclude-caches"
    _, command = parse([*arguments.split(), "--one-file-system", "--full", "--detach", "--request-id", "r"])
    assert command == SnapshotCommand(
        "/workspace", ("a", "b", "# logs", "*.log", "", "!keep.log"), ("c",), True, True, True, None, "r", True
    )


@pytest.mark.parametrize(
    ("flags", "choice"),
    [([], IfNotEmpty.FAIL), (["--overwrite"], IfNotEmpty.OVERWRITE), (["--mirror"], IfNotEmpty.MIRROR)],
)
def test_restore(flags: list[str], choice: IfNotEmpty) -> None:
    _, command = parse(["restore", "latest", "/target", *flags, "--path", "models/", "--path", "./a//b\udcff"])
    assert command == RestoreCommand("latest", "/target", choice, (b"models", b"a/b\xff"))


def test_a_restore_that_compares_content() -> None:
    _, command = parse(["restore", "latest", "/target", "--mirror", "--checksum"])
    assert command == RestoreCommand("latest", "/target", IfNotEmpty.MIRROR, checksum=True)


def test_listings() -> None:
    assert parse(["files", "id", "--names"])[1] == FilesCommand("id", names=True)
    assert parse(["files", "id", "a/b", "-0"])[1] == FilesCommand("id", b"a/b", null=True)
    assert parse(["diff", "a", "b", "."])[1] == DiffCommand("a", "b")
    assert parse(["operations", "-n", "3"])[1] == OperationsCommand(3)


def test_storage_of_the_request() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
    named = ["snapshots", "--provider=r2", "--bucket=b", "--prefix=p", "--endpoint=https://e", "--region=auto"]
    storage = Storage(Provider.R2, "b", "p", "https://e", "auto")
    assert parse(named, keys)[1] == SnapshotsCommand(storage=storage)
    _, command = parse([*named, "--send-credentials"], keys)
    assert isinstance(command, SnapshotsCommand)
    assert command.storage is not None
    assert command.storage.credentials == Credentials("id", "secret", "token")


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("", "COMMAND"),
        ("unknown", "invalid choice"),
        ("snapshot", "PATH"),
        ("snapshot relative", "workspace relative: not absolute"),
        ("snapshot /w --exclude-from /nonexistent", "--exclude-from /nonexistent: No such file"),
        ("snapshot /w\udcff", "workspace /w\\xff: not valid UTF-8"),
        ("restore latest", "TARGET"),
        ("restore latest relative", "target relative: not absolute"),
        ("restore latest /t --overwrite --mirror", "not allowed with"),
        ("restore latest /t --checksum", "--checksum: an empty target has nothing to compare"),
        ("restore latest /t --path ../x", "--path ../x: not a path inside the workspace"),
        ("restore latest /t --path /x", "--path /x: not a path inside"),
        ("files id /x", "path /x: not a path inside"),
        ("files id -0 --json", "--null"),
        ("operations -n 0", "'0' is not a number above 0"),
        ("operations --reattach soon", "'soon' is not a number of seconds"),
        ("delete latest --yes", "latest is not accepted"),
        ("snapshots --send-credentials", "no storage is named"),
        ("snapshots --bucket b", "no provider is named"),
        ("snapshots --provider s3", "no bucket is named"),
        ("snapshots --provider local", "no endpoint is named"),
        ("snapshots --provider s3 --bucket b --send-credentials", "AWS_ACCESS_KEY_ID is not set"),
        ("snapshots --provider nas", "invalid choice"),
    ],
)
def test_mistakes(line: str, fragment: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line.split(), {})
    message = str(caught.value)
    assert fragment in message
    assert message.isprintable()
    assert message.endswith(")")


def test_what_takes_one_agent_only_says_why() -> None:
    assert "--null" in parse(["files", "id", "-0"])[0].only_one
    assert parse(["delete", "id", "--yes"])[0].only_one == ""


@pytest.mark.parametrize(
    "command",
    ["snapshot", "restore", "snapshots", "show", "files", "diff", "operations", "watch", "cancel", "delete", "doctor",
     "info"],
)  # fmt: skip
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([command, "--help"])
    assert caught.value.code == 0
    assert f"gpusnap {command}" in capsys.readouterr().out


def test_benchmarks_of_stores_by_their_names() -> None:
    assert parse(["bench"])[1] == BenchCommand()
    arguments = "bench --provider r2 --provider b2 --size 1GiB --object-size 16MiB --rounds 2"
    assert parse(arguments.split())[1] == BenchCommand(("r2", "b2"), 1 << 30, 16 << 20, 2)
    assert parse(["bench", "--provider", "r2", "--detach", "--request-id", "r"])[1] == BenchCommand(
        ("r2",), request_id="r", detach=True
    )


def test_a_benchmark_of_a_store_that_is_described() -> None:
    described = ["bench", "--provider", "b2", "--bucket", "b", "--region", "us-west-004"]
    assert parse(described)[1] == BenchCommand(storage=Storage(Provider.B2, "b", region="us-west-004"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("bench --provider b2 --provider r2 --bucket b", "one vendor is needed"),
        ("bench --provider mine --bucket b", "one vendor is needed"),
        ("bench --bucket b", "no provider is named"),
        ("bench --provider local --prefix p", "no endpoint is named"),
        ("bench --provider a --provider a", "given twice"),
        ("bench --provider a --provider b --detach", "--detach: not possible with several"),
        ("bench --provider a --provider b --request-id r", "--request-id: not possible with several"),
        ("bench --rounds 0", "not a number above 0"),
        ("bench --send-credentials", "no storage is named"),
    ],
)
def test_benchmarks_that_are_not_possible(arguments: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(arguments.split())
