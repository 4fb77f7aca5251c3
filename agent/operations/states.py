"""Which state of an operation may follow which: the only place that says so."""

from __future__ import annotations

from collections.abc import Mapping

from agent.events import OperationState

ALLOWED: Mapping[OperationState, frozenset[OperationState]] = {
    OperationState.PENDING: frozenset({OperationState.RUNNING, OperationState.CANCELLING, OperationState.FAILED}),
    OperationState.RUNNING: frozenset({OperationState.CANCELLING, OperationState.SUCCEEDED, OperationState.FAILED}),
    # What was committed while the request to stop was on its way has succeeded all the same.
    OperationState.CANCELLING: frozenset(
        {OperationState.CANCELLED, OperationState.SUCCEEDED, OperationState.FAILED},
    ),
    OperationState.SUCCEEDED: frozenset(),
    # One that lacked nothing but credentials goes on when its request is repeated with new ones.
    OperationState.FAILED: frozenset({OperationState.PENDING}),
    OperationState.CANCELLED: frozenset(),
}
"""The states that may follow each state."""


def follow(present: OperationState, new: OperationState) -> OperationState:
    """Returns ``new``.

    Raises:
        ValueError: ``new`` may not follow ``present``.
    """
    if new not in ALLOWED[present]:
        raise ValueError(f"an operation that is {present.value} cannot become {new.value}")
    return new
