"""Control groups whose processes get little memory: the kernel kills the one that takes more."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import pytest

from tests.support.processes import wait_until

_NEWER = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_OLDER = Path("/sys/fs/cgroup/memory")


class MemoryLimit:
    """A control group of version 1 or 2, until ``close``.

    Args:
        size: bytes that its processes may take from when they are in it.
    """

    def __init__(self, size: int) -> None:
        name = f"gpusnap-test-{secrets.token_hex(4)}"
        try:
            self._folder, limit, self._events = _make(name)
            (self._folder / limit).write_text(str(size))
        except OSError as error:
            pytest.skip(f"no control group with a memory limit can be made here: {error}")

    @property
    def kills(self) -> int:
        """Processes that the kernel has killed in it."""
        facts = dict(line.split() for line in (self._folder / self._events).read_text().splitlines())
        return int(facts["oom_kill"])

    def add(self, pid: int) -> None:
        """Puts a process into it, if that is still there."""
        with contextlib.suppress(ProcessLookupError):
            (self._folder / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        """Removes it when its processes have ended."""
        wait_until(lambda: not (self._folder / "cgroup.procs").read_text(), "the end of what is in a control group")
        os.rmdir(self._folder)


def _make(name: str) -> tuple[Path, str, str]:
    for root in _NEWER:
        controllers = root / "cgroup.controllers"
        if controllers.exists() and "memory" in controllers.read_text().split():
            (root / "cgroup.subtree_control").write_text("+memory")
            (root / name).mkdir()
            return root / name, "memory.max", "memory.events"
    (_OLDER / name).mkdir()
    return _OLDER / name, "memory.limit_in_bytes", "memory.oom_control"
