"""The commands that look after a repository."""

from __future__ import annotations

from dataclasses import dataclass

from controller_client.cli.context import Context
from controller_client.cli.exit_code import ExitCode
from controller_client.cli.follow import follow_or_detach
from controller_client.model import Storage
from controller_client.names import show_text
from controller_client.reports import KEEP_ALL, KeepRules


@dataclass(frozen=True)
class PruneCommand:
    """`gpusnap prune`."""

    rules: KeepRules = KEEP_ALL
    hosts: tuple[str, ...] = ()
    workspaces: tuple[str, ...] = ()
    dry_run: bool = False
    storage: Storage | None = None
    request_id: str | None = None
    detach: bool = False

    async def run(self, context: Context) -> ExitCode:
        """Deletes what nobody needs."""
        handle = await context.client.prune(
            self.rules,
            hosts=self.hosts,
            workspaces=self.workspaces,
            dry_run=self.dry_run,
            storage=self.storage,
            request_id=self.request_id,
        )
        return await follow_or_detach(context, handle, "prune", self.detach)


@dataclass(frozen=True)
class VerifyCommand:
    """`gpusnap verify`."""

    snapshot: str = ""
    full: bool = False
    bytes_per_second: int = 0
    storage: Storage | None = None
    request_id: str | None = None
    detach: bool = False

    async def run(self, context: Context) -> ExitCode:
        """Verifies one snapshot or all."""
        handle = await context.client.verify(
            self.snapshot,
            full=self.full,
            bytes_per_second=self.bytes_per_second,
            storage=self.storage,
            request_id=self.request_id,
        )
        what = show_text(self.snapshot) if self.snapshot else "all snapshots"
        return await follow_or_detach(context, handle, f"verify of {what}", self.detach)
