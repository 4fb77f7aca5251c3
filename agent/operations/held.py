"""Which paths operations hold, so that no other one may use them meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from agent.errors import WorkspaceBusyError
from agent.operations.record import OperationRecord
from agent.operations.request import Request
from agent.restore.request import RestoreRequest
from agent.snapshot.request import SnapshotRequest


def held_path(request: Request) -> bytes:
    """Returns the path that an operation holds; empty if it works on the store alone."""
    if isinstance(request, SnapshotRequest):
        return request.workspace
    return request.target if isinstance(request, RestoreRequest) else b""


def refuse_busy(path: bytes, holders: Iterable[OperationRecord]) -> None:
    """Makes sure that nobody else holds a path.

    Raises:
        WorkspaceBusyError: another operation holds it, one above it or one below it.
    """
    for other in holders:
        if overlap(path, other.path):
            raise WorkspaceBusyError(
                f"{path.decode('utf-8', 'backslashreplace')} is held by {other.name}",
                metadata={"operation": other.name},
            )


def overlap(one: bytes, other: bytes) -> bool:
    """Returns whether two absolute paths are the same, or one lies inside the other; an empty one holds nothing."""
    if not one or not other:
        return False
    one, other = one.rstrip(b"/") + b"/", other.rstrip(b"/") + b"/"
    return one.startswith(other) or other.startswith(one)
