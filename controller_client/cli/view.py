"""How running operations are shown: live on a terminal, not at all off it."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Protocol

from controller_client.cli.output import Stderr
from controller_client.cli.tracker import Tracker


class View(Protocol):
    """Shows running operations, and takes messages meanwhile."""

    def message(self, text: str) -> None:
        """Writes one line to stderr, above what is shown."""
        ...

    def show(self, tracker: Tracker) -> None:
        """Shows an operation from now on, as its tracker changes."""
        ...

    def settle(self) -> None:
        """Leaves the last state of a single operation where it stands, so that what follows comes below it."""
        ...

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def choose_view(*, several: bool, shown: bool) -> View:
    """Returns a live view if stderr is a terminal that can show one and ``shown`` allows it."""
    if not shown or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return PlainView()
    # Imported only here: rich takes a quarter of the time in which every other command is done.
    from rich.console import Console

    from controller_client.cli.terminal_view import TerminalView

    return TerminalView(Console(stderr=True, highlight=False), several=several)


class PlainView(Stderr):
    """Shows nothing but messages."""

    def show(self, tracker: Tracker) -> None:
        """Shows nothing."""

    def settle(self) -> None:
        """Does nothing."""

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass
