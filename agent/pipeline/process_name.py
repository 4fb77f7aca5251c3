"""What `ps` and `top` call the processes of an operation: their command lines are those of Python."""

from __future__ import annotations

import contextlib
import enum


class ProcessName(enum.Enum):
    """The names, of 15 bytes at most. A process takes its name once it has loaded what it needs."""

    STANDBY = "gpusnap-standby"
    OPERATION = "gpusnap-op"
    LOOKOUT = "gpusnap-lookout"
    PACK = "gpusnap-pack"
    WRITE = "gpusnap-write"


def name_process(name: ProcessName) -> None:
    """Names this process; where the kernel does not let it, nothing happens."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name.value)
