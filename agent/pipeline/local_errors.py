"""The operating system's errors as ours."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from agent.errors import GpusnapError, LocalIoError, LocalPermissionError, NoSpaceError, OutOfMemoryError


def local_error(what: str, error: OSError) -> GpusnapError:
    """Returns the error that says that ``what`` failed, and why."""
    message = f"{what}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(message)
    if error.errno == errno.ENOMEM:
        return OutOfMemoryError(message)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return LocalPermissionError(message)
    return LocalIoError(message)


@contextlib.contextmanager
def local_errors(what: str) -> Iterator[None]:
    """Turns an OSError of the block into ours."""
    try:
        yield
    except OSError as error:
        raise local_error(what, error) from error
