"""What becomes of an operation that an agent, or its own process, did not bring to its end. Pure."""

from __future__ import annotations

import msgspec

from agent.errors import CancelledError, CredentialsNeededError, WorkerCrashedError, describe
from agent.events import Completed, OperationKind, OperationState, Succeeded, WarningRaised
from agent.operations.hub import first_sequence_after_restart
from agent.operations.order import Order, has_credentials
from agent.operations.process import WorkerEnd
from agent.operations.record import OperationRecord
from agent.operations.request import Request
from agent.operations.states import follow
from agent.restore.kept import KEPT_AFTER
from agent.restore.request import RestoreRequest
from agent.snapshot.request import SnapshotRequest

ATTEMPTS = 3
"""Processes that an operation gets from one agent: what kills two of them, such as a lack of memory, stays."""

CONTINUATIONS = 3
"""Agents in a row that may die over an operation they have continued: the next one gives it up."""


def end_instead(record: OperationRecord, resume_on_start: bool) -> Completed | None:
    """Returns how an operation ends that a former agent left; ``None`` if it is to be continued."""
    if record.state is OperationState.CANCELLING:
        return Completed(OperationState.CANCELLED)
    if not resume_on_start:
        return _given_up("the agent was restarted while the operation ran", "repeat the request")
    if record.continuations >= CONTINUATIONS:
        return _given_up(
            f"the agent died while the operation ran, and in each of its {CONTINUATIONS} continuations",
            "look into the logs of the agent and the kernel for what kills it (such as a lack of memory)",
        )
    return Completed(OperationState.FAILED, describe(_needs_credentials(record))) if record.had_credentials else None


def _needs_credentials(record: OperationRecord) -> CredentialsNeededError:
    if record.request_id:
        hint = f"repeat the request with its credentials and request_id {record.request_id!r}: it goes on where it was"
    else:
        hint = "repeat the request with its credentials (a restore with if_not_empty overwrite): it goes on from there"
    return CredentialsNeededError(
        "the agent was restarted while the operation ran, and it keeps no credentials that come with requests",
        hint=hint,
    )


def goes_on_with(record: OperationRecord, order: Order) -> bool:
    """Returns whether an operation has ended for want of credentials alone, and its order brings some again."""
    error = record.completed.error if record.completed is not None else None
    return error is not None and error.reason == CredentialsNeededError.reason and has_credentials(order)


def keeps_work(record: OperationRecord, completed: Completed) -> bool:
    """Returns whether what an operation has written so far stays where it is when it ends so."""
    if record.kind is not OperationKind.RESTORE or not record.begun or completed.state is not OperationState.FAILED:
        return False
    return completed.error is not None and completed.error.reason in KEPT_AFTER


def continued(record: OperationRecord) -> OperationRecord:
    """Returns the record of an operation that is continued by a new agent."""
    return msgspec.structs.replace(
        record,
        last_sequence=first_sequence_after_restart(record.last_sequence),
        continuations=record.continuations + 1,
    )


def reopened(record: OperationRecord, path: bytes, is_own: bool) -> OperationRecord:
    """Returns the record of an operation that had ended and is continued.

    Args:
        path: where its workspace or target is now.
        is_own: what it has begun is still its own; otherwise it begins anew.
    """
    return msgspec.structs.replace(
        continued(record),
        state=follow(record.state, OperationState.PENDING),
        path=path,
        begun=record.begun if is_own else "",
        end_time_ns=0,
        completed=None,
        keeps_work=False,
    )


def continuation_notice(record: OperationRecord) -> WarningRaised:
    """Returns what the callers of a continued operation are told."""
    what = f" {record.begun}" if record.begun else ""
    return WarningRaised("OPERATION_CONTINUED", f"the agent was restarted, and continues the {record.kind.value}{what}")


def death(end: WorkerEnd) -> WorkerCrashedError | None:
    """Returns why the process of an operation did not come to an end of its own; ``None`` if it did.

    The operation was not asked to stop.
    """
    if end.message is None:
        return end.crash()
    if not isinstance(end.message, Succeeded) and end.message.error.reason == CancelledError.reason:
        return WorkerCrashedError("the operation's process was told to stop, but not by its agent")
    return None


def last_death(error: WorkerCrashedError) -> WorkerCrashedError:
    """Returns the error of an operation that gets no further process."""
    return WorkerCrashedError(f"{error.message}; that was the last of {ATTEMPTS} attempts")


def retry_notice(error: WorkerCrashedError, attempt: int) -> WarningRaised:
    """Returns what callers are told when an operation gets another process after its attempt number ``attempt``."""
    return WarningRaised("OPERATION_RETRIED", f"{error.message}: attempt {attempt + 1} of {ATTEMPTS} begins")


def taking_up(request: Request, record: OperationRecord) -> Request:
    """Returns the request for a process that takes up what an earlier one has begun under a snapshot's id."""
    if not record.begun:
        return request
    if isinstance(request, RestoreRequest):
        # "latest" may be another one by now, and what was written so far is of this one.
        return msgspec.structs.replace(request, snapshot=record.begun, resume=True)
    return msgspec.structs.replace(request, former=record.begun) if isinstance(request, SnapshotRequest) else request


def _given_up(message: str, hint: str) -> Completed:
    return Completed(OperationState.FAILED, describe(WorkerCrashedError(message, hint=hint)))
