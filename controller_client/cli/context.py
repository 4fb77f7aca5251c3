"""What every command gets: one agent, its output, and the view."""

from __future__ import annotations

import shlex
import time
from typing import Protocol

from controller_client.cli.exit_code import ExitCode
from controller_client.cli.hosts import Host
from controller_client.cli.output import Output
from controller_client.cli.tracker import Tracker
from controller_client.cli.view import View
from controller_client.client import AgentClient
from controller_client.errors import AgentUnreachableError
from controller_client.names import show_text
from controller_client.reattach import ReattachPolicy


class Context:
    """One host of a command that runs."""

    def __init__(self, host: Host, output: Output, view: View, reattach_seconds: float) -> None:
        self.host = host
        self.output = output
        self._view = view
        self._tracker: Tracker | None = None
        self.client = AgentClient(host.address, reattach=ReattachPolicy(reattach_seconds, on_lost=self._lost))

    def track(self, title: str) -> Tracker:
        """Shows an operation in the view and returns the tracker to feed."""
        self._tracker = Tracker(show_text(self.host.name), title, time.monotonic())
        self._view.show(self._tracker)
        return self._tracker

    def settle(self) -> None:
        """Ends the live view of the operation, if it is the only one, so that what follows comes below it."""
        self._view.settle()

    def command_line(self, *words: str) -> str:
        """Returns a `gpusnap` command for this agent, to be typed by a person."""
        agent = ("--agent", self.host.address) if self.host.given else ()
        return shlex.join(("gpusnap", *agent, *words))

    def _lost(self, error: AgentUnreachableError) -> None:
        self.output.note(f"{show_text(error.message)}; attaching again")
        if self._tracker is not None:
            self._tracker.trouble = "connection lost, attaching again"


class Command(Protocol):
    """One command with its arguments; it runs on every host."""

    async def run(self, context: Context) -> ExitCode:
        """Does it on one host.

        Raises:
            GpusnapError: it failed.
        """
        ...
