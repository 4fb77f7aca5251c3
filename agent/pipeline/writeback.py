"""Early writeback: what was written through the page cache goes to the disk at once, and not all in the end."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable

_SYNC_FILE_RANGE_WRITE = 2
"""Of <linux/fs.h>: begin to write what is dirty, and do not wait for it."""

_CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP})


def begin_writeback(fd: int, offset: int, size: int) -> None:
    """Lets the kernel begin to write a range of a file to its disk; does nothing where that is not possible.

    Raises:
        OSError: the disk refused what was written before.
    """
    error = _sync_file_range()(fd, offset, size, _SYNC_FILE_RANGE_WRITE)
    if error and error not in _CANNOT:
        raise OSError(error, os.strerror(error))


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int]:
    """Returns the system's function, such that it returns the error's number, or 0."""
    import ctypes  # late: only those who write much through the cache need it

    try:
        function = ctypes.CDLL(None, use_errno=True).sync_file_range
    except AttributeError:
        return lambda fd, offset, size, flags: errno.ENOSYS
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def call(fd: int, offset: int, size: int, flags: int) -> int:
        return ctypes.get_errno() if function(fd, offset, size, flags) else 0

    return call
