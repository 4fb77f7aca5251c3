"""What the command writes: data on stdout, messages on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Protocol

from controller_client.cli.hosts import Host
from controller_client.cli.json_form import fields_of, to_line
from controller_client.errors import DataLossError, GpusnapError
from controller_client.model import (
    ChunkFinished,
    Completed,
    Event,
    EventDetail,
    Failure,
    FileReady,
    Progress,
    ScanTotals,
    StateChanged,
    UnknownDetail,
    WarningRaised,
)
from controller_client.names import show_path, show_text

_SHOWN_CHUNKS = 10
_SHOWN_PATHS = 5
_RECORDS: dict[type[EventDetail], str] = {
    StateChanged: "state_changed",
    ScanTotals: "scan_totals",
    ChunkFinished: "chunk_finished",
    Progress: "progress",
    FileReady: "file_ready",
    WarningRaised: "warning",
    Completed: "completed",
    UnknownDetail: "unknown",
}


class Messages(Protocol):
    """Where messages for people go."""

    def message(self, text: str) -> None:
        """Writes one line."""
        ...


class Stderr:
    """Messages on stderr."""

    def message(self, text: str) -> None:
        """Writes one line."""
        print(text, file=sys.stderr, flush=True)


class Output:
    """The output for one host. With several hosts each line begins with the host's name.

    Attributes:
        json: whether data are NDJSON.
        quiet: whether messages are left out unless something went wrong.
    """

    def __init__(self, host: Host, messages: Messages, *, several: bool, json: bool, quiet: bool) -> None:
        self._host = host
        self._messages = messages
        self._mark = f"{show_text(host.name)}: " if several else ""
        self.json = json
        self.quiet = quiet

    def line(self, text: str) -> None:
        """Writes one line of data, unless data are JSON. Whatever is in it must be safe to show."""
        if not self.json:
            sys.stdout.write(f"{self._mark}{text}\n")

    def raw(self, name: bytes, prefix: bytes = b"") -> None:
        """Writes a name as it is and NUL."""
        sys.stdout.buffer.write(prefix + name + b"\0")

    def record(self, record: str, **fields: object) -> None:
        """Writes one line of NDJSON, if data are JSON; ``record`` says what it is about."""
        if self.json:
            sys.stdout.write(to_line(agent=self._host.name, record=record, **fields) + "\n")

    def event(self, event: Event) -> None:
        """Writes an event as NDJSON, if data are JSON, at once."""
        self.record(
            _RECORDS[type(event.detail)],
            operation=event.operation,
            sequence=event.sequence,
            time_ns=event.time_ns,
            **fields_of(event.detail),
        )
        self.flush()

    def note(self, text: str) -> None:
        """Writes a message."""
        if not self.quiet:
            self._messages.message(f"{self._mark}{text}")

    def problem(self, text: str) -> None:
        """Writes a message that something went wrong."""
        self._messages.message(f"gpusnap: {self._mark}{text}")

    def error(self, error: GpusnapError) -> None:
        """Writes why the command failed."""
        self.record("error", reason=error.reason, message=error.message, hint=error.hint, retryable=error.retryable)
        self.problem(one_line(error))
        if isinstance(error, DataLossError):
            for text in damage_lines(error):
                self.problem(text)

    def flush(self) -> None:
        """Hands what was written to whoever reads it."""
        sys.stdout.flush()


def one_line(error: GpusnapError | Failure) -> str:
    """Returns what was wrong and what to do, in one line that is safe to show."""
    message = show_text(error.message)
    return f"{message} ({show_text(error.hint)})" if error.hint else message


def damage_lines(error: DataLossError) -> list[str]:
    """Returns the damaged chunks and their files, some of them if there are many."""
    lines = []
    for chunk in error.damaged[:_SHOWN_CHUNKS]:
        touches = f"; touches {_some(map(show_path, chunk.paths))}" if chunk.paths else ""
        needed = [show_text(snapshot.snapshot_id) for snapshot in chunk.snapshots]
        if chunk.chunk_id:
            needed_by = f"; needed by {_some(needed)}" if needed else ""
            lines.append(f"chunk {show_text(chunk.chunk_id)}: {show_text(chunk.problem)}{needed_by}{touches}")
        else:
            lines.append(f"snapshot {show_text(chunk.problem)}")
    if len(error.damaged) > _SHOWN_CHUNKS:
        lines.append(f"and {len(error.damaged) - _SHOWN_CHUNKS} more chunks (--json shows them)")
    return lines


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN_PATHS} more" if len(names) > _SHOWN_PATHS else ""
    return ", ".join(names[:_SHOWN_PATHS]) + more
