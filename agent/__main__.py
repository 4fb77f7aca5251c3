"""The command `gpusnap-agent`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

import msgspec

from agent import version
from agent.config.keys import is_secret
from agent.config.load import LoadedConfig, load
from agent.config.report import lines, plain_values
from agent.errors import ConfigError, GpusnapError
from agent.storage.staging_place import staging_place

EXIT_FAILED = 1
"""The agent cannot do what it was told."""

EXIT_USAGE = 2
"""The command line or the configuration is wrong."""

_FLAGS: Mapping[str, tuple[str, str, str]] = {
    "--listen": (
        "agent.listen",
        "ADDRESS",
        "where clients connect: unix:PATH or HOST:PORT, or several with commas",
    ),
    "--metrics-listen": ("agent.metrics_listen", "HOST:PORT", "where Prometheus scrapes; empty for nowhere"),
    "--state-dir": ("agent.state_dir", "FOLDER", "the journal's folder"),
    "--staging-dir": ("agent.staging_dir", "FOLDER", "the folder for chunks on their way, best on tmpfs"),
    "--workspace-root": (
        "agent.workspace_roots",
        "FOLDER",
        "what may be saved and restored, or several with commas",
    ),
    "--log-level": ("agent.log_level", "LEVEL", "debug, info, warning or error"),
    "--provider": ("storage.provider", "NAME", "s3, r2, b2, wasabi, local or custom"),
    "--bucket": ("storage.bucket", "NAME", "the bucket"),
    "--prefix": ("storage.prefix", "PREFIX", "the prefix of every object's key"),
    "--endpoint": ("storage.endpoint", "URL", "the endpoint (custom), or the folder (local)"),
    "--region": ("storage.region", "NAME", "the region"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `gpusnap-agent` and exits with its status."""
    sys.exit(_run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    try:
        if options.command == "serve":
            return _serve(options)
        if options.command == "check-config":
            return _check_config(options)
        print(f"gpusnap-agent {version()}")
    except ConfigError as error:
        return _complain(error, EXIT_USAGE)
    except GpusnapError as error:
        return _complain(error, EXIT_FAILED)
    return 0


def _serve(options: argparse.Namespace) -> int:
    # Imported here, so that the other commands answer without waiting for gRPC.
    from agent.daemon.serve import serve

    return serve(load(options.config, os.environ, _given(options)).config, os.environ)


def _check_config(options: argparse.Namespace) -> int:
    loaded = load(options.config, os.environ, _given(options))
    if options.json:
        text = msgspec.json.encode(_as_data(loaded))
        print(msgspec.json.format(text, indent=2).decode())
    else:
        folder = loaded.config.agent.staging_dir
        print("\n".join([*lines(loaded), f"# staging: {folder} on {staging_place(folder).text}"]))
    return 0


def _as_data(loaded: LoadedConfig) -> dict[str, dict[str, object]]:
    """Returns every key's value and origin, with secrets masked as in the report for people."""
    data: dict[str, dict[str, object]] = {}
    for key, value in plain_values(loaded.config).items():
        shown = "********" if value and is_secret(key) else value
        data[key] = {"value": shown, "origin": loaded.origins[key]}
    return data


def _given(options: argparse.Namespace) -> dict[str, str]:
    """Returns the flags that were given, by the keys of the configuration."""
    values = {key: getattr(options, key) for key, _, _ in _FLAGS.values()}
    return {key: value for key, value in values.items() if value is not None}


def _complain(error: GpusnapError, status: int) -> int:
    print(f"gpusnap-agent: {error.message}; {error.hint}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpusnap-agent", description="Saves workspaces to object storage and brings them back."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the agent in the foreground")
    check = commands.add_parser("check-config", help="print each value of the configuration and where it comes from")
    check.add_argument("--json", action="store_true", help="print JSON")
    for command in (serve, check):
        command.add_argument("--config", metavar="FILE", help="agent.toml; by default /etc/gpusnap/agent.toml")
        for flag, (key, value, text) in _FLAGS.items():
            command.add_argument(flag, dest=key, metavar=value, help=f"{text} ({key})")
    commands.add_parser("version", help="print the version")
    return parser


if __name__ == "__main__":
    main()
