"""What the exit code of `gpusnap` says."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from controller_client.errors import AddressError, AgentUnreachableError, DataLossError
from controller_client.model import Completed, OperationState


class ExitCode(enum.IntEnum):
    """The exit codes, and with 128 added the signals that ended the command, as shells have it."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    WARNINGS = 3
    UNREACHABLE = 4
    DATA_LOSS = 5
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


_FROM_BEST_TO_WORST = (
    ExitCode.DONE,
    ExitCode.WARNINGS,
    ExitCode.UNREACHABLE,
    ExitCode.FAILED,
    ExitCode.DATA_LOSS,
    ExitCode.USAGE,
    ExitCode.BROKEN_PIPE,
    ExitCode.INTERRUPTED,
    ExitCode.TERMINATED,
)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Returns the code of a command that ran on several hosts: the worst of theirs."""
    return max(codes, key=_FROM_BEST_TO_WORST.index, default=ExitCode.DONE)


def of_error(error: Exception) -> ExitCode:
    """Returns the code for a command that ended with an error."""
    if isinstance(error, AddressError):
        return ExitCode.USAGE
    if isinstance(error, AgentUnreachableError):
        return ExitCode.UNREACHABLE
    return ExitCode.DATA_LOSS if isinstance(error, DataLossError) else ExitCode.FAILED


def of_completed(completed: Completed) -> ExitCode:
    """Returns the code for an operation that ended."""
    if completed.state is OperationState.SUCCEEDED:
        warnings = completed.result.warnings if completed.result is not None else 0
        return ExitCode.WARNINGS if warnings else ExitCode.DONE
    if completed.error is not None and completed.error.reason == DataLossError.default_reason:
        return ExitCode.DATA_LOSS
    return ExitCode.FAILED
