"""Memory for buffers that are used again and again: the kernel hands out its pages on first use."""

from __future__ import annotations

import mmap
import os


def anonymous(size: int) -> memoryview:
    """Returns ``size`` writable zero bytes (at least 1); they go back to the system with the last view of them.

    Raises:
        OSError, OverflowError: the machine cannot give so much.
    """
    # Private, as shared anonymous memory is a file on tmpfs to the kernel and seldom gets huge pages.
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _ask_for_huge_pages(mapping)
    return memoryview(mapping)


class SharedMemory:
    """Memory that other processes can map through its descriptor, which is open for as long as this object lives.

    Args:
        size: its bytes, at least 1.

    Raises:
        OSError, OverflowError: the machine cannot give so much.
    """

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("gpusnap", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, size)
            mapping = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        _ask_for_huge_pages(mapping)
        self.view = memoryview(mapping)

    def __del__(self) -> None:
        if hasattr(self, "view"):
            os.close(self.fd)


def map_file(fd: int, offset: int, size: int) -> mmap.mmap:
    """Returns the bytes of a file or of shared memory for reading; ``offset`` is a multiple of the page size.

    Reading them kills the process if the file is cut meanwhile, so it must be one that nobody else writes.

    Raises:
        OSError: they cannot be mapped.
    """
    # All pages at once: meeting them one by one costs more than all that are mapped in vain.
    return mmap.mmap(fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ, offset=offset)


class Mappings:
    """Maps what the descriptors that come with tasks lead to: shared memory, which comes again and again, only once."""

    def __init__(self) -> None:
        self._memories: dict[tuple[int, int], memoryview] = {}

    def view(self, fd: int, offset: int, size: int) -> memoryview:
        """Returns bytes as ``map_file`` does; the descriptor may be closed then."""
        if size == 0:
            return memoryview(b"")
        facts = os.fstat(fd)
        if facts.st_nlink:
            return memoryview(map_file(fd, offset, size))
        identity = facts.st_dev, facts.st_ino
        if identity not in self._memories:
            # Without MAP_POPULATE: other workers use most of it.
            self._memories[identity] = memoryview(mmap.mmap(fd, facts.st_size, mmap.MAP_SHARED, mmap.PROT_READ))
        return self._memories[identity][offset : offset + size]


def _ask_for_huge_pages(mapping: mmap.mmap) -> None:
    try:
        mapping.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        pass  # a kernel without huge pages: only slower
