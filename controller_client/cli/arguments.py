"""From a command line to the options and the command that it means."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller_client.cli import bench, browse, inspect, maintain, operate
from controller_client.cli.context import Command
from controller_client.cli.hosts import UsageError
from controller_client.cli.parser import make_parser
from controller_client.model import Credentials, IfNotEmpty, Provider, Storage
from controller_client.names import show_path, show_text
from controller_client.reports import KEEP_ALL, KeepRules


@dataclass(frozen=True)
class Options:
    """What holds for every command.

    Attributes:
        reattach_seconds: how long a lost connection is tried again.
        only_one: why the command takes one agent only; empty if it takes several.
    """

    agents: tuple[str, ...] = ()
    fleet: str | None = None
    json: bool = False
    quiet: bool = False
    reattach_seconds: float = 300.0
    only_one: str = ""


def parse(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> tuple[Options, Command]:
    """Returns the options and the command of a command line.

    Raises:
        UsageError: it is wrong.
        SystemExit: it asked for help or the version, which has been printed.
    """
    arguments = make_parser().parse_args(argv)
    storage = _storage(arguments, environment) if "bucket" in arguments else None
    command = _MAKERS[arguments.command](arguments, storage)
    return _options(arguments), command


def _options(arguments: Namespace) -> Options:
    given = vars(arguments)
    json = given.get("json", False)
    if json and given.get("null"):
        raise UsageError("--null: not possible with --json (choose one)")
    return Options(
        agents=(*arguments.agent, *given.get("agent_after", ())),
        fleet=given.get("fleet"),
        json=json,
        quiet=given.get("quiet", False),
        reattach_seconds=given.get("reattach", Options.reattach_seconds),
        only_one=_only_one(arguments),
    )


def _only_one(arguments: Namespace) -> str:
    if vars(arguments).get("null"):
        return "--null: not possible with several agents (name one, or use --json)"
    if arguments.command == "delete" and not arguments.yes:
        return "delete: asks, so it takes one agent (name one, or give --yes)"
    return ""


def _snapshot(arguments: Namespace, storage: Storage | None) -> Command:
    return operate.SnapshotCommand(
        workspace=_absolute(arguments.path, "workspace"),
        exclude=(*_texts(arguments.exclude, "--exclude"), *_patterns(arguments.exclude_from)),
        include=_texts(arguments.include, "--include"),
        exclude_caches=arguments.exclude_caches,
        one_file_system=arguments.one_file_system,
        full=arguments.full,
        storage=storage,
        request_id=arguments.request_id,
        detach=arguments.detach,
    )


def _restore(arguments: Namespace, storage: Storage | None) -> Command:
    choice = IfNotEmpty.FAIL
    if arguments.checksum and not (arguments.overwrite or arguments.mirror):
        raise UsageError("--checksum: an empty target has nothing to compare (give --overwrite or --mirror too)")
    if arguments.overwrite or arguments.mirror:
        choice = IfNotEmpty.MIRROR if arguments.mirror else IfNotEmpty.OVERWRITE
    return operate.RestoreCommand(
        snapshot=_text(arguments.snapshot, "snapshot"),
        target=_absolute(arguments.target, "target"),
        if_not_empty=choice,
        paths=tuple(_entry_path(path, "--path") for path in arguments.path),
        checksum=arguments.checksum,
        storage=storage,
        request_id=arguments.request_id,
        detach=arguments.detach,
    )


def _verify(arguments: Namespace, storage: Storage | None) -> Command:
    if arguments.rate and not arguments.full:
        raise UsageError("--rate: nothing is read without --full (give --full too)")
    return maintain.VerifyCommand(
        snapshot=_text(arguments.snapshot, "snapshot"),
        full=arguments.full,
        bytes_per_second=arguments.rate,
        storage=storage,
        request_id=arguments.request_id,
        detach=arguments.detach,
    )


def _prune(arguments: Namespace, storage: Storage | None) -> Command:
    rules = KeepRules(
        arguments.keep_last,
        arguments.keep_hourly,
        arguments.keep_daily,
        arguments.keep_weekly,
        arguments.keep_monthly,
        arguments.keep_within,
    )
    if rules == KEEP_ALL and (arguments.host or arguments.workspace):
        raise UsageError("--host, --workspace: they say what the rules are for (give one, such as --keep-last)")
    return maintain.PruneCommand(
        rules=rules,
        hosts=_texts(arguments.host, "--host"),
        workspaces=tuple(_absolute(path, "--workspace") for path in arguments.workspace),
        dry_run=arguments.dry_run,
        storage=storage,
        request_id=arguments.request_id,
        detach=arguments.detach,
    )


def _bench(arguments: Namespace, storage: Storage | None) -> Command:
    providers = () if storage is not None else _texts(arguments.provider or (), "--provider")
    if len(set(providers)) < len(providers):
        raise UsageError("--provider: a name is given twice (give each once)")
    for option in ("detach", "request_id"):
        if len(providers) > 1 and getattr(arguments, option):
            raise UsageError(f"--{option.replace('_', '-')}: not possible with several providers (name one)")
    return bench.BenchCommand(
        providers=providers,
        bytes=arguments.size,
        object_bytes=arguments.object_size,
        rounds=arguments.rounds,
        storage=storage,
        request_id=arguments.request_id,
        detach=arguments.detach,
    )


def _delete(arguments: Namespace, storage: Storage | None) -> Command:
    if arguments.snapshot == "latest":
        raise UsageError("delete: latest is not accepted, what it names may change (give the snapshot's id)")
    if not arguments.yes and not os.isatty(0):
        raise UsageError("delete: cannot ask, stdin is not a terminal (give --yes)")
    return browse.DeleteCommand(_text(arguments.snapshot, "snapshot"), arguments.yes, storage)


def _files(arguments: Namespace, storage: Storage | None) -> Command:
    snapshot = _text(arguments.snapshot, "snapshot")
    return browse.FilesCommand(snapshot, _below(arguments.path), arguments.names, arguments.null, storage)


def _diff(arguments: Namespace, storage: Storage | None) -> Command:
    before, after = _text(arguments.before, "snapshot"), _text(arguments.after, "snapshot")
    return browse.DiffCommand(before, after, _below(arguments.path), arguments.null, storage)


_MAKERS: dict[str, Callable[[Namespace, Storage | None], Command]] = {
    "snapshot": _snapshot,
    "restore": _restore,
    "operations": lambda arguments, _: operate.OperationsCommand(arguments.limit),
    "watch": lambda arguments, _: operate.WatchCommand(_text(arguments.operation, "operation")),
    "cancel": lambda arguments, _: operate.CancelCommand(_text(arguments.operation, "operation")),
    "snapshots": lambda arguments, storage: browse.SnapshotsCommand(arguments.limit, storage),
    "show": lambda arguments, storage: browse.ShowCommand(_text(arguments.snapshot, "snapshot"), storage),
    "files": _files,
    "diff": _diff,
    "delete": _delete,
    "verify": _verify,
    "prune": _prune,
    "bench": _bench,
    "doctor": lambda _, storage: inspect.DoctorCommand(storage),
    "info": lambda *_: inspect.InfoCommand(),
}


def _storage(arguments: Namespace, environment: Mapping[str, str]) -> Storage | None:
    provider: str | list[str] | None = arguments.provider
    details = (arguments.bucket, arguments.prefix, arguments.endpoint, arguments.region)
    if isinstance(provider, list):
        # Names in the agent's configuration, unless more is said about the store.
        provider = _vendor(provider) if any(value is not None for value in details) else None
    if all(value is None for value in (provider, *details)):
        if arguments.send_credentials:
            raise UsageError("--send-credentials: no storage is named (give --provider and --bucket too)")
        return None
    if provider is None:
        raise UsageError("storage: no provider is named (give --provider too)")
    place = "endpoint" if provider == Provider.LOCAL.value else "bucket"
    if not vars(arguments)[place]:
        raise UsageError(f"--provider {provider}: no {place} is named (give --{place} too)")
    return Storage(
        provider=Provider(provider),
        bucket=_text(arguments.bucket or "", "--bucket"),
        prefix=_text(arguments.prefix or "", "--prefix"),
        endpoint=_text(arguments.endpoint or "", "--endpoint"),
        region=_text(arguments.region or "", "--region"),
        credentials=_credentials(environment) if arguments.send_credentials else None,
    )


def _vendor(providers: Sequence[str]) -> str:
    vendors = [each.value for each in Provider if each is not Provider.UNKNOWN]
    if len(providers) > 1 or providers[0] not in vendors:
        raise UsageError(f"--provider: one vendor is needed where a store is described ({', '.join(vendors)})")
    return providers[0]


def _credentials(environment: Mapping[str, str]) -> Credentials:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        if not environment.get(name):
            raise UsageError(f"--send-credentials: {name} is not set (set it in the environment of this command)")
    return Credentials(
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        session_token=environment.get("AWS_SESSION_TOKEN", ""),
    )


def _text(value: str, what: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        shown = show_path(os.fsencode(value))
        raise UsageError(f"{what} {shown}: not valid UTF-8 (the agent takes only UTF-8 here)") from None
    return value


def _texts(values: Iterable[str], what: str) -> tuple[str, ...]:
    return tuple(_text(value, what) for value in values)


def _absolute(path: str, what: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"{what} {show_text(path)}: not absolute (give the whole path on the agent's machine)")
    return _text(path, what)


def _entry_path(path: str, what: str) -> bytes:
    """Returns the bytes of a path inside a snapshot, as the shell gave it."""
    components = [component for component in os.fsencode(path).split(b"/") if component not in (b"", b".")]
    if path.startswith("/") or b".." in components or not components:
        shown = show_path(os.fsencode(path))
        raise UsageError(f"{what} {shown}: not a path inside the workspace (give it relative to the workspace)")
    return b"/".join(components)


def _below(path: str) -> bytes:
    return b"" if path in ("", ".") else _entry_path(path, "path")


def _patterns(files: Iterable[str]) -> tuple[str, ...]:
    """Returns the lines of pattern files; comments and empty lines are part of the gitignore syntax."""
    found: list[str] = []
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                found += file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            shown = show_path(os.fsencode(path))
            raise UsageError(f"--exclude-from {shown}: {reason} (name a readable text file)") from error
    return tuple(found)
