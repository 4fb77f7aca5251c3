"""The options of the benchmark."""

from __future__ import annotations

import argparse
import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.ours import DIRECTORY
from tests.benchmarks.stores import Link, StoreKind
from tests.benchmarks.workspace import Size

TOOLS = ("gpusnap", "restic", "rclone", "tar", "s5cmd", "cp")
ENGINES = ("auto", "stream", "s5cmd", DIRECTORY)
TLS = {"off": (False,), "on": (True,), "both": (False, True)}


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        workspace: what to save; ``None`` for a prepared workspace.
        size: of prepared workspaces.
        tools: which tools, of ``TOOLS``.
        all_tools: whether the tools were left open.
        engines: gpusnap's engines.
        stores: which stores.
        rounds: how often.
        small_files: whether many small files are measured too.
        link: the bandwidth of the link.
        tls: whether the store is reached by https; both ways if there are two.
        cores: with how many cores restores are measured, besides.
        json: where to write figures; ``None`` for nowhere.
        cache: the folder of prepared workspaces.
        folder: where is restored to; its disk is measured.
    """

    workspace: Path | None
    size: Size
    tools: tuple[str, ...]
    all_tools: bool
    engines: tuple[str, ...]
    stores: tuple[StoreKind, ...]
    rounds: int
    small_files: bool
    link: Link
    tls: tuple[bool, ...]
    cores: tuple[int, ...]
    json: Path | None
    cache: Path
    folder: Path


def read_options(arguments: list[str] | None = None) -> Options:
    """Reads the command line; ends the program if it makes no sense."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpusnap-benchmark"
    parser = argparse.ArgumentParser(prog="make bench", description="Measures gpusnap beside other tools, in turn.")
    add = parser.add_argument
    add("--workspace", type=Path, help="what to save; by default a workspace is prepared, once")
    add("--size", type=Size, default=Size.FULL, help="of prepared workspaces: full (3 GB) or quick (300 MB)")
    add("--tools", type=_list_of(TOOLS), help=f"some of {','.join(TOOLS)}")
    add(
        "--engines",
        type=lambda text: tuple(text.split(",")),
        default=ENGINES,
        help=f"gpusnap's engines, of {','.join(ENGINES)}",
    )
    kinds = ",".join(kind.value for kind in StoreKind)
    add("--store", type=_list_of(kinds.split(",")), default=tuple(kinds.split(",")), help=f"some of {kinds}")
    add("--rounds", type=_rounds, default=3)
    add("--small-files", action=argparse.BooleanOptionalAction, help="files of 4 KB too; the default with --size full")
    limited = functools.partial(add, type=_bandwidth, metavar="MBIT", default=math.inf)
    limited("--bandwidth", help="of the link to the store, each way, up to about 2000")
    limited("--connection-bandwidth", help="of each connection, each way")
    add(
        "--tls",
        choices=TLS,
        nargs="?",
        const="on",
        default="both",
        help="reach the store by https; both (the default) adds gpusnap and s5cmd cp over https, to the first store",
    )
    add("--cores", type=_cores, default=(), metavar="N,N", help="restore to memory with so many cores each: 2,16")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--cache", type=Path, default=cache, help="where prepared workspaces are kept")
    add("--folder", type=Path, help="where to restore to, on the disk to be measured; by default the cache")
    given = parser.parse_args(arguments)
    if given.workspace is not None and not given.workspace.is_dir():
        parser.error(f"--workspace {given.workspace}: not a directory")
    return Options(
        workspace=given.workspace and given.workspace.resolve(),
        size=given.size,
        tools=given.tools or TOOLS,
        all_tools=given.tools is None,
        engines=given.engines,
        stores=tuple(map(StoreKind, given.store)),
        rounds=given.rounds,
        small_files=given.size is Size.FULL if given.small_files is None else given.small_files,
        link=Link(given.bandwidth, given.connection_bandwidth),
        tls=TLS[given.tls],
        cores=given.cores,
        json=given.json,
        cache=given.cache.resolve(),
        folder=(given.folder or given.cache).resolve(),
    )


class _list_of:  # noqa: N801 - reads as a type of argparse
    """Reads some of the given words, separated by commas."""

    def __init__(self, allowed: tuple[str, ...] | list[str]) -> None:
        self._allowed = allowed

    def __call__(self, text: str) -> tuple[str, ...]:
        words = tuple(dict.fromkeys(text.split(",")))
        for word in words:
            if word not in self._allowed:
                raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(self._allowed)}")
        return words


def _cores(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers of cores")
    return tuple(sorted(set(map(int, words))))


def _rounds(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds")
    return int(text)


def _bandwidth(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no bandwidth in Mbit/s")
    return value
