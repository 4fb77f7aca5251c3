"""What a restore that failed leaves in its target for the next one: large files that it has begun."""

from __future__ import annotations

import os

from agent.errors import (
    CredentialsNeededError,
    OutOfMemoryError,
    StorageAccessDeniedError,
    StorageUnavailableError,
    WorkerCrashedError,
)
from agent.pipeline.beneath import list_names, remove
from agent.pipeline.work_folder import UNFINISHED_PREFIX
from agent.repository.model import SEGMENT_SIZE
from agent.restore.origin import FILE_NAME as ORIGIN_FILE

KEPT_AFTER = frozenset(
    each.reason
    for each in (
        CredentialsNeededError,
        OutOfMemoryError,
        StorageAccessDeniedError,
        StorageUnavailableError,
        WorkerCrashedError,
    )
)
"""After these the same restore may succeed, with other keys perhaps, and the target had no part in it: it has room."""


def trim(work_fd: int) -> bool:
    """Removes from an open work folder what no restore could go on with; says whether anything is left.

    A file of one segment is either complete or not there at all.
    """
    names = list_names(work_fd)
    useful = {name for name in names if name.startswith(UNFINISHED_PREFIX) and _size(work_fd, name) > SEGMENT_SIZE}
    for name in names:
        if name not in useful and not (useful and name == ORIGIN_FILE):
            remove(work_fd, name)
    return bool(useful)


def _size(folder_fd: int, name: bytes) -> int:
    return os.lstat(name, dir_fd=folder_fd).st_size
