"""What is known about an operation, as plain data."""

from __future__ import annotations

import re
import secrets

import msgspec

from agent.events import Completed, OperationEvent, OperationKind, OperationState, Progress

NAME_PATTERN = re.compile(rf"({'|'.join(kind.value for kind in OperationKind)})-[0-9a-f]{{10}}")


class LoggedEvent(msgspec.Struct, frozen=True):
    """One numbered event. ``sequence`` counts from 1 within the operation; ``time_ns`` is since 1970-01-01 UTC."""

    sequence: int
    time_ns: int
    event: OperationEvent


class OperationRecord(msgspec.Struct, frozen=True):
    """One operation as the journal keeps it and as callers see it.

    Attributes:
        name: unique on this agent.
        kind: what it does.
        state: where it stands.
        request_id: the caller's id for it; may be empty.
        digest: tells its request from others (``agent.operations.order.digest``).
        path: the workspace or target, absolute and without symbolic links; empty for what needs none.
        snapshot: the snapshot as it was named (restore, verify), or the id of the committed one (snapshot).
        request: the request as JSON, without credentials.
        create_time_ns: when it was accepted.
        end_time_ns: when it ended; 0 before.
        last_sequence: the number of its last event.
        completed: how it ended; ``None`` before.
        progress: the latest progress; never in the journal.
        number: its place in the journal, ascending with time; 0 before it is there.
        had_credentials: the request came with credentials, which are not kept.
        begun: the snapshot that its last run began to store or to write (``agent.events.Begun``); empty before.
        continuations: how often it was continued since an agent that had it last ended as it should.
        keeps_work: it has ended, and what it has written so far waits for a restore that goes on with it.
    """

    name: str
    kind: OperationKind
    state: OperationState
    request_id: str
    digest: str
    path: bytes
    snapshot: str
    request: bytes
    create_time_ns: int
    end_time_ns: int = 0
    last_sequence: int = 0
    completed: Completed | None = None
    progress: Progress | None = None
    number: int = 0
    had_credentials: bool = False
    begun: str = ""
    continuations: int = 0
    keeps_work: bool = False


def new_name(kind: OperationKind) -> str:
    """Returns a fresh name such as ``snapshot-4f2a9c01d3``."""
    return f"{kind.value}-{secrets.token_hex(5)}"
