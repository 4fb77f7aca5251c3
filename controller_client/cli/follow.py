"""Following an operation to its end: events, messages, summary, exit code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from controller_client.cli import units
from controller_client.cli.benchmark_table import benchmark_table, benchmarked
from controller_client.cli.context import Context
from controller_client.cli.exit_code import ExitCode, of_completed
from controller_client.cli.maintained import prune_lines, pruned, verified
from controller_client.errors import GpusnapError, from_completed
from controller_client.model import Completed, OperationResult, WarningRaised
from controller_client.names import show_path, show_text
from controller_client.operation import OperationHandle
from controller_client.reports import PresentReport

_SHOWN_PATHS = 3


def print_data(context: Context, result: OperationResult) -> None:
    """Writes the data of an operation that succeeded."""
    if result.prune is not None:
        lines = prune_lines(result.prune)
    elif result.benchmark is not None:
        lines = benchmark_table([(result.benchmark.provider.value, result)])
    else:
        lines = iter([result.snapshot_id] if result.snapshot_id and result.verify is None else [])
    for line in lines:
        context.output.line(line)


async def follow(
    context: Context,
    handle: OperationHandle,
    title: str,
    take: Callable[[Context, OperationResult], None] = print_data,
) -> ExitCode:
    """Follows an operation. Being cancelled (Ctrl-C) detaches: the operation goes on.

    Args:
        context: the host.
        handle: the operation.
        title: what it does, safe to show.
        take: what is done with the result of an operation that succeeded.

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
    return _finish(context, title, handle.name, tracker.completed, take)


async def follow_or_detach(context: Context, handle: OperationHandle, title: str, detach: bool) -> ExitCode:
    """Follows an operation that was just started, or only says its name. Raises as ``follow``."""
    if not handle.name:
        raise GpusnapError("the agent did not name the operation")
    if not detach:
        return await follow(context, handle, title)
    await handle.close()
    context.output.record("detached", operation=handle.name)
    context.output.line(handle.name)
    context.output.note(f"{title} goes on; attach with: {context.command_line('watch', handle.name)}")
    return ExitCode.DONE


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


def _finish(
    context: Context,
    title: str,
    name: str,
    completed: Completed,
    take: Callable[[Context, OperationResult], None],
) -> ExitCode:
    output = context.output
    error = from_completed(completed, name)
    if error is not None:
        output.error(error)
    elif completed.result is not None:
        output.note(f"{title}: {summary(completed.result)}")
        take(context, completed.result)
    output.flush()
    return of_completed(completed)


def summary(result: OperationResult) -> str:
    """Returns what an operation did, in one line."""
    if result.verify is not None:
        return verified(result, result.verify)
    if result.prune is not None:
        return pruned(result, result.prune)
    if result.benchmark is not None:
        return benchmarked(result)
    totals = result.totals
    size = totals.bytes or result.raw_bytes
    took = f"{units.count(totals.files, 'file')}, {units.size(size)} in {units.duration(result.seconds)}"
    handled = size - result.unchanged_bytes - (result.present.kept_bytes if result.present is not None else 0)
    speed = f" ({units.rate(handled / result.seconds)})" if handled > 0 and result.seconds > 0 else ""
    parts = [took + speed]
    if result.unchanged_files:
        parts.append(f"{units.count(result.unchanged_files, 'unchanged file')} not read")
    if result.present is not None:
        parts += _present(result.present)
    parts.append(_moved(result))
    if result.engine:
        parts.append(f"engine {show_text(result.engine)}")
    if result.occupation:
        # The largest comes first.
        parts.append(f"held back by the {result.occupation[0].cause.value}")
    if result.warnings:
        parts.append(units.count(result.warnings, "warning"))
    return "; ".join(parts)


def _present(report: PresentReport) -> list[str]:
    parts = [f"{units.count(report.kept_files, 'file')} kept, {units.size(report.kept_bytes)}"]
    return [*parts, f"{units.size(report.copied_bytes)} copied locally"] if report.copied_bytes else parts


def _moved(result: OperationResult) -> str:
    if not result.chunks_transferred:
        return f"none of {units.count(result.chunks, 'chunk')} had to be transferred"
    size = units.size(result.transferred_bytes)
    if result.chunks_transferred > result.chunks:
        # Of a file that was read again, the first reading's chunks went to the store too.
        return f"{units.count(result.chunks_transferred, 'chunk')} transferred, {size}"
    return f"{result.chunks_transferred:,} of {units.count(result.chunks, 'chunk')} transferred, {size}"
