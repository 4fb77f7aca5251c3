"""What was written is on its way to the disk."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from agent.pipeline.writeback import begin_writeback

CACHESTAT = 451
"""The number of the system call, the same on all machines."""

SIZE = 8 << 20


class Range(ctypes.Structure):
    """struct cachestat_range of <linux/mman.h>."""

    _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]


class Pages(ctypes.Structure):
    """struct cachestat of <linux/mman.h>."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")]


def dirty_pages(fd: int) -> int:
    """Returns how many pages of a file are in memory alone and not being written."""
    found = Pages()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(CACHESTAT, fd, ctypes.byref(Range(0, 0)), ctypes.byref(found), 0):
        pytest.skip(f"the kernel does not tell: {os.strerror(ctypes.get_errno())}")
    return int(found.dirty)


def test_what_was_written_is_not_left_for_later(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(bytes(SIZE))
        if not dirty_pages(file.fileno()):
            pytest.skip("this file system writes at once, or never")
        begin_writeback(file.fileno(), 0, SIZE)
        left = dirty_pages(file.fileno())
    # Of what is on its way the kernel may count some still as dirty.
    assert left < SIZE // os.sysconf("SC_PAGE_SIZE") // 2


def test_where_it_is_not_possible() -> None:
    reading, writing = os.pipe()
    try:
        begin_writeback(writing, 0, 1)
    finally:
        os.close(reading)
        os.close(writing)


def test_other_errors_are_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OSError) as caught:
        begin_writeback(fd, 0, 1)
    assert caught.value.errno == errno.EBADF
