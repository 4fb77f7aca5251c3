"""The options of the demonstration."""

from __future__ import annotations

import argparse
import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Size(enum.Enum):
    """How large the built workspace is."""

    FULL = "full"
    SMALL = "small"


@dataclass(frozen=True)
class Options:
    """What the demonstration is asked to do.

    Attributes:
        workspace: a folder of the user's own; ``None`` to build one.
        folder: where the temporary folder is made; ``None`` for the system's place.
        size: how large the built workspace is.
        keep: leave everything behind and say how to go on.
    """

    workspace: str | None
    folder: str | None
    size: Size
    keep: bool


def parse(argv: Sequence[str]) -> Options:
    """Parses the options; ends the process with status 2 if they are wrong."""
    parser = argparse.ArgumentParser(
        prog="gpusnap demo",
        description="Starts a real S3 server and an agent here, saves a workspace of about 1 GB, deletes it, "
        "restores it and compares every byte.",
    )
    parser.add_argument(
        "--workspace",
        metavar="PATH",
        help="your own folder instead: it is only read, and restored into a new folder beside it",
    )
    parser.add_argument(
        "--folder", metavar="PATH", help="where to work; needs about 4 GB (default: the temporary folder)"
    )
    parser.add_argument(
        "--size",
        choices=[size.value for size in Size],
        default=Size.FULL.value,
        help="small: about 50 MB, made without downloads",
    )
    parser.add_argument("--keep", action="store_true", help="leave everything there and say how to go on by hand")
    given = parser.parse_args(argv)
    return Options(given.workspace, given.folder, Size(given.size), given.keep)
