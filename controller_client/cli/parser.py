"""The command line of `gpusnap`: what it accepts."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from controller_client.cli.hosts import UsageError
from controller_client.model import Provider
from controller_client.names import show_text

_DESCRIPTION = "Saves the workspaces of GPU machines to object storage and brings them back, through their agents."
_EPILOG = """\
A snapshot is named by its id, a unique prefix of it, or `latest`. Paths are those of the agent's machine.

The agent is the one of --agent or --fleet, else of GPUSNAP_AGENT_ADDRESS, else the socket /run/gpusnap/agent.sock,
else 127.0.0.1:7447. With several, every one does the command at once and each line begins with its name.

Data go to stdout, messages and progress to stderr; progress only on a terminal. Ctrl-C detaches: the operation is the
agent's and goes on, until `gpusnap cancel`.

exit codes:
  0 done   1 failed   2 usage   3 done with warnings   4 agent unreachable   5 data loss
  130, 143 interrupted (an operation goes on)   141 the reader of stdout went away
  With several agents it is the worst of theirs: 5, then 1, 4, 3, 0.
"""


_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?((?:[KMGT]i?)?B?)", re.IGNORECASE)
_DURATION = re.compile(r"([0-9]{1,6})([smhdw])")
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{show_text(message)} (see `{self.prog} --help`)")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line."""
    parser = _Parser(
        prog="gpusnap",
        usage="gpusnap [--agent ADDR]... COMMAND ... [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    _add_common(parser, agent_name="agent", agent_default=[])
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    _add_operations(commands)
    _add_browsing(commands)
    _add_maintenance(commands)
    doctor = _add(
        commands, "doctor", "look at the agent, its s5cmd and its store, and say what to do about what is wrong"
    )
    _add_storage(doctor)
    _add(commands, "info [options]", "show what the agent is and how it is configured")
    commands.add_parser("demo", help="show it all on this machine: a real store, a real workspace, there and back")
    return parser


class _Version(argparse.Action):
    """Shows the version; looks it up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("gpusnap")
        except PackageNotFoundError:  # run from a source tree that is not installed
            found = "0.0.0"
        print(f"gpusnap {found}")
        parser.exit()


_Commands = argparse._SubParsersAction


def _add(commands: _Commands[_Parser], usage: str, summary: str) -> argparse.ArgumentParser:
    """Adds a command with the common options; ``usage`` begins with its name."""
    name = usage.split()[0]
    description = f"{summary[0].upper()}{summary[1:]}."
    parser = commands.add_parser(
        name, prog=f"gpusnap {name}", usage=f"gpusnap {usage}", help=summary, description=description
    )
    _add_common(parser, agent_name="agent_after", agent_default=argparse.SUPPRESS)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, agent_name: str, agent_default: object) -> None:
    group = parser.add_argument_group("agents and output")
    group.add_argument(
        "--agent", metavar="ADDR", action="append", dest=agent_name, default=agent_default,
        help="the agent: HOST:PORT or unix:PATH; may be repeated",
    )  # fmt: skip
    absent = argparse.SUPPRESS
    group.add_argument("--fleet", metavar="FILE", default=absent, help="more agents: one `name address` a line")
    group.add_argument("--json", action="store_true", default=absent, help="write data and events as NDJSON")
    group.add_argument("-q", "--quiet", action="store_true", default=absent, help="no progress and no summary")
    group.add_argument(
        "--reattach", metavar="SECONDS", type=_seconds, default=absent,
        help="how long to try to attach again when the connection is lost (300)",
    )  # fmt: skip


def _add_operations(commands: _Commands[_Parser]) -> None:
    snapshot = _add(commands, "snapshot PATH [options]", "save a workspace and print the snapshot's id")
    snapshot.add_argument("path", metavar="PATH", help="the workspace: an absolute path on the agent's machine")
    _repeated(snapshot, "--exclude", "P", "leave out what matches this gitignore pattern")
    _repeated(snapshot, "--exclude-from", "FILE", "leave out what matches the patterns in this local file")
    _repeated(snapshot, "--include", "P", "save only what matches this gitignore pattern")
    snapshot.add_argument(
        "--exclude-caches", action="store_true",
        help="leave out what can be downloaded again: CACHEDIR.TAG, __pycache__, pip, uv, conda, Hugging Face hub",
    )  # fmt: skip
    snapshot.add_argument("--one-file-system", action="store_true", help="stay on the workspace's file system")
    snapshot.add_argument("--full", action="store_true", help="read every file, unchanged ones too")
    _add_start(snapshot)
    restore = _add(commands, "restore SNAPSHOT TARGET [options]", "bring a snapshot back and print its id")
    restore.add_argument("snapshot", metavar="SNAPSHOT")
    restore.add_argument("target", metavar="TARGET", help="where to: an absolute path on the agent's machine")
    _repeated(restore, "--path", "P", "only this path of the workspace and what is below it")
    kind = restore.add_mutually_exclusive_group()
    kind.add_argument("--overwrite", action="store_true", help="replace what the snapshot has, keep everything else")
    kind.add_argument("--mirror", action="store_true", help="also remove what the snapshot does not have")
    restore.add_argument(
        "--checksum", action="store_true",
        help="compare the content of files that are there, instead of trusting their size and time",
    )  # fmt: skip
    _add_start(restore)
    operations = _add(commands, "operations [options]", "list the agent's operations, the newest first")
    _add_limit(operations)
    watch = _add(commands, "watch OP [options]", "attach to an operation and follow it to its end")
    watch.add_argument("operation", metavar="OP")
    cancel = _add(commands, "cancel OP [options]", "ask an operation to stop")
    cancel.add_argument("operation", metavar="OP")


def _add_browsing(commands: _Commands[_Parser]) -> None:
    snapshots = _add(commands, "snapshots [options]", "list the snapshots, the newest first")
    _add_limit(snapshots)
    _add_storage(snapshots)
    show = _add(commands, "show SNAPSHOT [options]", "show one snapshot")
    show.add_argument("snapshot", metavar="SNAPSHOT")
    _add_storage(show)
    files = _add(commands, "files SNAPSHOT [PATH] [options]", "list the files of a snapshot")
    files.add_argument("snapshot", metavar="SNAPSHOT")
    files.add_argument("path", metavar="PATH", nargs="?", default="", help="only this path and what is below it")
    files.add_argument("--names", action="store_true", help="names only, one a line, odd ones escaped")
    _add_null(files)
    _add_storage(files)
    diff = _add(commands, "diff A B [PATH] [options]", "list what differs between two snapshots")
    diff.epilog = "A added, D deleted, M modified (size, time or link target), m only other metadata, T another type"
    diff.add_argument("before", metavar="A")
    diff.add_argument("after", metavar="B")
    diff.add_argument("path", metavar="PATH", nargs="?", default="", help="only this path and what is below it")
    _add_null(diff)
    _add_storage(diff)
    delete = _add(commands, "delete SNAPSHOT [options]", "delete a snapshot; its chunks are for `gpusnap prune`")
    delete.add_argument("snapshot", metavar="SNAPSHOT", help="its id or a unique prefix of it")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    _add_storage(delete)


def _add_maintenance(commands: _Commands[_Parser]) -> None:
    verify = _add(commands, "verify [SNAPSHOT] [options]", "look whether all that snapshots need is in the store")
    verify.add_argument("snapshot", metavar="SNAPSHOT", nargs="?", default="", help="one snapshot; all without it")
    verify.add_argument("--full", action="store_true", help="read every chunk and compare its bytes with its id")
    verify.add_argument(
        "--rate", metavar="SIZE", type=_bytes, default=0, help="read no more than this a second, such as 50MiB"
    )
    _add_start(verify)
    prune = _add(commands, "prune [--keep-...] [options]", "delete what the repository does not need any more")
    prune.epilog = (
        "A snapshot stays if any rule keeps it; rules are for each workspace of each host by itself. Without a rule no "
        "snapshot is deleted. Chunks that nothing needs are condemned by one prune and deleted by a later one, after "
        "the repository's grace (a day, if it says nothing else): run it regularly."
    )
    for name, text in (
        ("last", "keep the newest N"),
        ("hourly", "keep the newest of each of the latest N hours that have one"),
        ("daily", "the same for days (UTC)"),
        ("weekly", "the same for ISO weeks"),
        ("monthly", "the same for months"),
    ):
        prune.add_argument(f"--keep-{name}", metavar="N", type=_positive, default=0, help=text)
    prune.add_argument(
        "--keep-within", metavar="TIME", type=_duration, default=0,
        help="keep what is no older than the newest by this much, such as 36h or 14d",
    )  # fmt: skip
    _repeated(prune, "--host", "H", "the rules are for the snapshots of this host")
    _repeated(prune, "--workspace", "PATH", "the rules are for the snapshots of this workspace")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be done")
    _add_start(prune)
    bench = _add(commands, "bench [options]", "measure the transfer engines with the agent's stores, or with one")
    bench.epilog = (
        "Without --provider it measures [storage] and every [providers.NAME] of the agent's configuration, one after "
        "the other; `storage` is the name of the first. Every engine moves SIZE in each direction and round. The "
        "engine auto follows the outcome."
    )
    bench.add_argument("--size", metavar="SIZE", type=_bytes, default=0, help="such as 2GiB (512MiB)")
    bench.add_argument("--object-size", metavar="SIZE", type=_bytes, default=0, help="of each object (64MiB)")
    bench.add_argument("--rounds", metavar="N", type=_positive, default=0, help="how often all of it is done (3)")
    _add_start(bench, several_providers=True)


def _repeated(parser: argparse.ArgumentParser, name: str, metavar: str, text: str) -> None:
    parser.add_argument(name, metavar=metavar, action="append", default=[], help=f"{text}; may be repeated")


def _add_start(parser: argparse.ArgumentParser, *, several_providers: bool = False) -> None:
    parser.add_argument("--detach", action="store_true", help="print the operation's name and return")
    parser.add_argument(
        "--request-id", metavar="ID", help="attach to the operation that this id started before, if there is one"
    )
    _add_storage(parser, several_providers=several_providers)


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--limit", metavar="N", type=_positive, help="so many at most")


def _add_null(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-0", "--null", action="store_true", help="names as they are, each ended by NUL")


def _add_storage(parser: argparse.ArgumentParser, *, several_providers: bool = False) -> None:
    group = parser.add_argument_group("storage", "Instead of the agent's configured storage, as a whole.")
    if several_providers:
        group.add_argument(
            "--provider", metavar="NAME", action="append",
            help="a [providers.NAME] of the agent's configuration; may be repeated. With --bucket, or --endpoint of a "
            "folder: the vendor of one store",
        )  # fmt: skip
    else:
        providers = [provider.value for provider in Provider if provider is not Provider.UNKNOWN]
        group.add_argument("--provider", choices=providers, help="the vendor of the store")
    group.add_argument("--bucket")
    group.add_argument("--prefix", help="the prefix of every object's key")
    group.add_argument("--endpoint", metavar="URL", help="the endpoint, or the folder for local")
    group.add_argument("--region")
    group.add_argument(
        "--send-credentials", action="store_true",
        help="give the agent the keys of AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN here",
    )  # fmt: skip


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _duration(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 36h or 14d")
    return int(match[1]) * _TIMES[match[2]]


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 50MiB")
    return int(float(match[1]) * _UNITS[match[2].lower().removesuffix("ib").removesuffix("b")])


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)
