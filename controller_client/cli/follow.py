"""Following an operation to its end: events, messages, summary, exit code."""

from __future__ import annotations

import asyncio
import time

from controller_client.cli import units
from controller_client.cli.context import Context
from controller_client.cli.exit_code import ExitCode, of_completed
from controller_client.errors import GpusnapError, from_failure
from controller_client.model import Completed, OperationResult, OperationState, WarningRaised
from controller_client.names import show_path, show_text
from controller_client.operation import OperationHandle

_SHOWN_PATHS = 3


async def follow(context: Context, handle: OperationHandle, title: str) -> ExitCode:
    """Follows an operation. Being cancelled (Ctrl-C) detaches: the operation goes on.

    Raises:
        GpusnapError: the operation cannot be followed. That it failed is an exit code.
    """
    tracker = context.track(title)
    output = context.output
    try:
        async for event in handle:
            tracker.update(event, time.monotonic())
            output.event(event)
            if isinstance(event.detail, WarningRaised) and not output.json:
                output.note(f"warning: {warning_line(event.detail)}")
    except asyncio.CancelledError:
        await handle.close()
        context.settle()
        tell_detached(context, handle.name)
        return ExitCode.INTERRUPTED
    assert tracker.completed is not None
    context.settle()
    return _finish(context, title, tracker.completed)


def tell_detached(context: Context, name: str) -> None:
    """Says that the operation goes on, and how to attach again."""
    again = context.command_line("watch", name)
    context.output.note(f"detached from {name}, which goes on; attach again with: {again}")


def warning_line(warning: WarningRaised) -> str:
    """Returns one line about what was not saved or restored as asked."""
    line = f"{warning.reason}: {show_text(warning.message)}"
    paths = [path for path in warning.paths[:_SHOWN_PATHS] if show_path(path) not in line]
    if paths:
        line += f": {', '.join(show_path(path) for path in paths)}"
    more = max(warning.count, len(warning.paths)) - _SHOWN_PATHS
    return f"{line} and {more} more" if more > 0 else line


def _finish(context: Context, title: str, completed: Completed) -> ExitCode:
    output = context.output
    if completed.state is OperationState.SUCCEEDED and completed.result is not None:
        output.note(f"{title}: {summary(completed.result)}")
        output.line(completed.result.snapshot_id)
    elif completed.error is not None:
        output.error(from_failure(completed.error))
    else:
        output.error(GpusnapError(f"{title}: {completed.state.value}"))
    output.flush()
    return of_completed(completed)


def summary(result: OperationResult) -> str:
    """Returns what an operation did, in one line."""
    totals = result.totals
    size = totals.bytes or result.raw_bytes
    parts = [f"{units.count(totals.files, 'file')}, {units.size(size)} in {units.duration(result.seconds)}"]
    if result.seconds > 0 and size:
        parts.append(units.rate(size / result.seconds))
    moved = f"{units.size(result.transferred_bytes)} over the wire" if result.transferred_bytes else "nothing moved"
    parts.append(f"{result.chunks_transferred:,} of {units.count(result.chunks, 'chunk')} moved, {moved}")
    if result.engine:
        parts.append(f"engine {show_text(result.engine)}")
    if result.warnings:
        parts.append(units.count(result.warnings, "warning"))
    return "; ".join(parts)
