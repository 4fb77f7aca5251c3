"""How it is told that an entry cannot be written."""

from __future__ import annotations

import errno

from agent.errors import LocalIoError
from agent.pipeline.local_errors import local_error
from agent.repository.model import Entry


def cannot_write(entry: Entry, error: OSError) -> Exception:
    """Returns the error for one that the system gave; it names the entry."""
    shown = entry.path.decode(errors="backslashreplace")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return LocalIoError(
            f"{shown} cannot be written: something on the way to it is a link or no directory",
            hint="let nothing else write to the target while it is restored",
        )
    return local_error(f"{shown} cannot be written", error)
