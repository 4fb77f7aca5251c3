"""The commands that look at snapshots and delete them."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from dataclasses import dataclass

from controller_client.cli import units
from controller_client.cli.columns import columns
from controller_client.cli.context import Context
from controller_client.cli.exit_code import ExitCode
from controller_client.cli.follow import warning_line
from controller_client.cli.json_form import fields_of
from controller_client.cli.listing import LETTERS, change_line, long_line, shown_path
from controller_client.diff import ChangeKind, diff
from controller_client.errors import PathNotFoundError
from controller_client.model import Snapshot, Storage
from controller_client.names import show_path, show_text

_BATCH = 100
_HEADER = ("ID", "COMMITTED", "HOST", "WORKSPACE", "FILES", "SIZE", "STORED", "WARNINGS")


@dataclass(frozen=True)
class SnapshotsCommand:
    """`gpusnap snapshots`."""

    limit: int | None = None
    storage: Storage | None = None

    async def run(self, context: Context) -> ExitCode:
        """Lists the snapshots, the newest first."""
        rows: list[tuple[str, ...]] = []
        number = 0
        code = ExitCode.DONE
        async for snapshot in context.client.list_snapshots(storage=self.storage):
            if self.limit is not None and number >= self.limit:
                break
            number += 1
            context.output.record("snapshot", **fields_of(snapshot))
            rows.append(_row(snapshot))
            if snapshot.problem:
                code = ExitCode.WARNINGS
                context.output.problem(f"a snapshot cannot be read: {show_text(snapshot.problem)}")
            if len(rows) >= _BATCH:
                _print(context, rows)
        _print(context, rows)
        if not number:
            context.output.note("no snapshots")
        return code


@dataclass(frozen=True)
class ShowCommand:
    """`gpusnap show`."""

    snapshot: str
    storage: Storage | None = None

    async def run(self, context: Context) -> ExitCode:
        """Shows one snapshot with its warnings."""
        snapshot = await context.client.get_snapshot(self.snapshot, storage=self.storage)
        context.output.record("snapshot", **fields_of(snapshot))
        for name, value in _facts(snapshot):
            context.output.line(f"{name:<12} {value}")
        for warning in snapshot.warnings:
            context.output.line(f"{'warning':<12} {warning_line(warning)}")
        return ExitCode.DONE


@dataclass(frozen=True)
class FilesCommand:
    """`gpusnap files`."""

    snapshot: str
    path: bytes = b""
    names: bool = False
    null: bool = False
    storage: Storage | None = None

    async def run(self, context: Context) -> ExitCode:
        """Lists the entries of a snapshot in archive order."""
        found = False
        async for entry in context.client.list_files(self.snapshot, self.path, storage=self.storage):
            found = True
            if context.output.json:
                context.output.record("entry", **fields_of(entry))
            elif self.null:
                context.output.raw(entry.path or b".")
            else:
                context.output.line(shown_path(entry.path) if self.names else long_line(entry))
        if not found:
            hint = f"list what it holds with `gpusnap files {show_text(self.snapshot)}`"
            raise PathNotFoundError(f"snapshot {self.snapshot}: no path {show_path(self.path)}", hint=hint)
        return ExitCode.DONE


@dataclass(frozen=True)
class DiffCommand:
    """`gpusnap diff`."""

    before: str
    after: str
    path: bytes = b""
    null: bool = False
    storage: Storage | None = None

    async def run(self, context: Context) -> ExitCode:
        """Lists what differs between two snapshots, with memory for one page of each."""
        before = context.client.list_files(self.before, self.path, storage=self.storage)
        after = context.client.list_files(self.after, self.path, storage=self.storage)
        counts: Counter[ChangeKind] = Counter()
        async for change in diff(before, after):
            counts[change.kind] += 1
            if self.null:
                context.output.raw(change.path or b".", f"{LETTERS[change.kind]} ".encode())
            else:
                context.output.record("change", **fields_of(change))
                context.output.line(change_line(change))
        parts = [f"{counts[kind]:,} {_KIND_WORDS[kind]}" for kind in ChangeKind if counts[kind]]
        context.output.note(", ".join(parts) or "no differences")
        return ExitCode.DONE


_KIND_WORDS = {
    ChangeKind.ADDED: "added",
    ChangeKind.DELETED: "deleted",
    ChangeKind.CONTENT: "modified",
    ChangeKind.METADATA: "with other metadata",
    ChangeKind.TYPE: "of another type",
}


@dataclass(frozen=True)
class DeleteCommand:
    """`gpusnap delete`."""

    snapshot: str
    yes: bool = False
    storage: Storage | None = None

    async def run(self, context: Context) -> ExitCode:
        """Deletes one snapshot, after a question unless ``yes``."""
        name = self.snapshot
        if not self.yes:
            snapshot = await context.client.get_snapshot(self.snapshot, storage=self.storage)
            if not await _confirmed(snapshot):
                context.output.problem("nothing was deleted")
                return ExitCode.FAILED
            name = snapshot.id
        deleted = await context.client.delete_snapshot(name, storage=self.storage)
        context.output.record("deleted", snapshot_id=deleted)
        context.output.line(deleted)
        return ExitCode.DONE


def _row(snapshot: Snapshot) -> tuple[str, ...]:
    if snapshot.problem:
        return (snapshot.id, "unreadable", "", "", "", "", "", "")
    return (
        snapshot.id,
        units.local_time(snapshot.commit_time_ns),
        show_text(snapshot.host),
        show_text(snapshot.workspace),
        f"{snapshot.totals.files:,}",
        units.size(snapshot.totals.bytes),
        units.size(snapshot.stored_bytes),
        f"{snapshot.warning_count:,}" if snapshot.warning_count else "",
    )


def _print(context: Context, rows: list[tuple[str, ...]]) -> None:
    if rows:
        for line in columns(_HEADER, rows, right=(4, 5, 6, 7)):
            context.output.line(line)
        rows.clear()


def _facts(snapshot: Snapshot) -> list[tuple[str, str]]:
    totals = snapshot.totals
    seconds = max(0, snapshot.commit_time_ns - snapshot.start_time_ns) / 1e9
    return [
        ("id", snapshot.id),
        ("parent", snapshot.parent or "none"),
        ("host", show_text(snapshot.host)),
        ("workspace", show_text(snapshot.workspace)),
        ("committed", f"{units.local_time(snapshot.commit_time_ns)}, after {units.duration(seconds)}"),
        ("agent", show_text(snapshot.agent_version)),
        ("models", f"{units.count(totals.models.files, 'file')}, {units.size(totals.models.bytes)}"),
        ("other", f"{units.count(totals.other.files, 'file')}, {units.size(totals.other.bytes)}"),
        ("directories", f"{totals.directories:,}"),
        ("links", f"{totals.links:,}"),
        ("archive", f"{units.count(snapshot.chunks, 'chunk')}, {units.size(snapshot.raw_bytes)}"),
        ("stored", units.size(snapshot.stored_bytes)),
        ("warnings", f"{snapshot.warning_count:,}"),
    ]


async def _confirmed(snapshot: Snapshot) -> bool:
    """Asks on the terminal; waits for the answer without blocking the event loop, so that Ctrl-C works."""
    what = f"{snapshot.id} ({show_text(snapshot.workspace)} of {show_text(snapshot.host)}, "
    print(f"Delete {what}{units.size(snapshot.totals.bytes)})? [y/N] ", end="", file=sys.stderr, flush=True)
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), answered.set)
    try:
        await answered.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline().strip().lower() in ("y", "yes")
