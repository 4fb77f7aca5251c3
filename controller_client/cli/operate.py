"""The commands that start, follow and stop operations."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller_client.cli import units
from controller_client.cli.columns import columns
from controller_client.cli.context import Context
from controller_client.cli.exit_code import ExitCode
from controller_client.cli.follow import follow, follow_or_detach
from controller_client.cli.json_form import fields_of
from controller_client.model import IfNotEmpty, Operation, Storage
from controller_client.names import show_text

_BATCH = 100


@dataclass(frozen=True)
class SnapshotCommand:
    """`gpusnap snapshot`."""

    workspace: str
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    full: bool = False
    storage: Storage | None = None
    request_id: str | None = None
    detach: bool = False

    async def run(self, context: Context) -> ExitCode:
        """Saves the workspace."""
        handle = await context.client.snapshot(
            self.workspace,
            exclude=self.exclude,
            include=self.include,
            exclude_caches=self.exclude_caches,
            one_file_system=self.one_file_system,
            full=self.full,
            storage=self.storage,
            request_id=self.request_id,
        )
        return await follow_or_detach(context, handle, f"snapshot of {show_text(self.workspace)}", self.detach)


@dataclass(frozen=True)
class RestoreCommand:
    """`gpusnap restore`."""

    snapshot: str
    target: str
    if_not_empty: IfNotEmpty = IfNotEmpty.FAIL
    paths: tuple[bytes, ...] = ()
    checksum: bool = False
    storage: Storage | None = None
    request_id: str | None = None
    detach: bool = False

    async def run(self, context: Context) -> ExitCode:
        """Brings the snapshot back."""
        handle = await context.client.restore(
            self.snapshot,
            self.target,
            if_not_empty=self.if_not_empty,
            paths=self.paths,
            checksum=self.checksum,
            storage=self.storage,
            request_id=self.request_id,
        )
        title = f"restore of {show_text(self.snapshot)} to {show_text(self.target)}"
        return await follow_or_detach(context, handle, title, self.detach)


@dataclass(frozen=True)
class WatchCommand:
    """`gpusnap watch`."""

    name: str

    async def run(self, context: Context) -> ExitCode:
        """Follows the operation to its end."""
        operation = await context.client.get_operation(self.name)
        handle = context.client.watch(operation.name)
        about = show_text(operation.path or operation.snapshot)
        return await follow(context, handle, f"{operation.kind.value} {about}".rstrip())


@dataclass(frozen=True)
class CancelCommand:
    """`gpusnap cancel`."""

    name: str

    async def run(self, context: Context) -> ExitCode:
        """Asks the operation to stop."""
        operation = await context.client.cancel(self.name)
        context.output.record("operation", **fields_of(operation))
        context.output.line(f"{show_text(operation.name)} {operation.state.value}")
        return ExitCode.DONE


@dataclass(frozen=True)
class OperationsCommand:
    """`gpusnap operations`."""

    limit: int | None = None

    async def run(self, context: Context) -> ExitCode:
        """Lists the operations, the newest first."""
        batch = _Batch(context)
        number = 0
        async for operation in context.client.list_operations():
            if self.limit is not None and number >= self.limit:
                break
            number += 1
            context.output.record("operation", **fields_of(operation))
            batch.add(operation)
        batch.flush()
        if not number:
            context.output.note("no operations")
        return ExitCode.DONE


@dataclass
class _Batch:
    """Rows that are printed together, so that the table of a long list needs bounded memory."""

    context: Context
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, operation: Operation) -> None:
        self.rows.append(_row(operation))
        if len(self.rows) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            for line in columns(("NAME", "STATE", "STARTED", "TOOK", "PATH", "SNAPSHOT"), self.rows, right=(3,)):
                self.context.output.line(line)
            self.rows.clear()


def _row(operation: Operation) -> tuple[str, ...]:
    took = ""
    if operation.end_time_ns is not None:
        took = units.duration(max(0, operation.end_time_ns - operation.create_time_ns) / 1e9)
    state = operation.state.value
    result = operation.completed.result if operation.completed is not None else None
    if result is not None and result.warnings:
        state += f" ({units.count(result.warnings, 'warning')})"
    started = units.local_time(operation.create_time_ns)
    return operation.name, state, started, took, show_text(operation.path), show_text(operation.snapshot)
