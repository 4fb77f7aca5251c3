"""Anonymous memory for buffers that are used again and again: the kernel hands out its pages on first use."""

from __future__ import annotations

import mmap


def anonymous(size: int) -> memoryview:
    """Returns ``size`` writable zero bytes (at least 1); they go back to the system with the last view of them.

    Raises:
        OSError, OverflowError: the machine cannot give so much.
    """
    # Private, as shared anonymous memory is a file on tmpfs to the kernel and seldom gets huge pages.
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        mapping.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        pass  # a kernel without huge pages: only slower
    return memoryview(mapping)
