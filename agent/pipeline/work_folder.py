"""The folder in which a restore keeps its unfinished files, at the top of its target."""

from __future__ import annotations

WORK_FOLDER_PREFIX = b".gpusnap-restore-"
"""Names that begin so are never a user's: snapshots leave them out at the top, and restores sweep them there."""

UNFINISHED_PREFIX = b"large-"
"""Names of unfinished large files in there; a restore that goes on takes them over."""


def work_folder(operation: str) -> bytes:
    """Returns the name of an operation's work folder."""
    return WORK_FOLDER_PREFIX + operation.encode()
