"""How many workers pack or write: from the machine's cores and memory."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

FEWEST = 2
MOST = 8

WORKER_BYTES = 104 << 20
"""The memory of one worker at most, see ``agent.config.model.TransferConfig``."""

MEMORY_SHARE = 4
"""Unless told, all workers together take at most 1/MEMORY_SHARE of the memory that is free."""

_GROUPS = Path("/sys/fs/cgroup")


class Workers(msgspec.Struct, frozen=True):
    """A number of workers, and one phrase saying why."""

    count: int
    reason: str


def choose_workers(configured: int, cores: int, free_bytes: int) -> Workers:
    """Decides how many workers pack or write. Pure.

    Unless told, one for each core: they are what costs processor time. Two at least, so that one computes while the
    other is held up by the disk, and eight at most, so that their memory stays bounded. Fewer where memory is short.
    What the network gives does not count: it is not known before, and a worker with nothing to do costs only its start.

    Args:
        configured: ``[transfer] workers``; 0 to decide here.
        cores: processors that may be used.
        free_bytes: memory that is free; 0 if nobody knows.
    """
    if configured:
        return Workers(configured, f"[transfer] workers = {configured}")
    count = min(max(cores, FEWEST), MOST)
    fitting = free_bytes // MEMORY_SHARE // WORKER_BYTES if free_bytes else count
    machine = f"{cores} core{'s' if cores > 1 else ''}"
    if fitting < count:
        count = max(fitting, 1)
        free, each = free_bytes >> 20, WORKER_BYTES >> 20
        why = f"all may take a quarter of the {free} MiB of free memory, and each takes up to {each}; {machine}"
    else:
        bound = {FEWEST: "at least two", MOST: "at most eight", cores: "one for each core"}[count]
        why = f"{bound}, on {machine}"
    return Workers(count, f"{why}; [transfer] workers would say otherwise")


def worker_count(configured: int) -> int:
    """Returns how many workers pack or write on this machine now."""
    return choose_workers(configured, usable_cores(), free_memory()).count


def usable_cores(group: Path | None = None) -> int:
    """Returns how many processors this process may use: those it may run on, within its control group's quota."""
    cores = len(os.sched_getaffinity(0))
    quota = _words((group or own_group()) / "cpu.max")
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, -(-int(quota[0]) // int(quota[1])))
    return max(cores, 1)


def free_memory(group: Path | None = None) -> int:
    """Returns the bytes of memory that this process could have without swapping; 0 if nobody says.

    That is what the machine has free, and what its control group's limit leaves: a container sees all of the machine.
    """
    group = group or own_group()
    known = dict(line.split(":", 1) for line in _text(Path("/proc/meminfo")).splitlines())
    free = int(known.get("MemAvailable", "0").split()[0]) * 1024
    limit, used = _words(group / "memory.max"), _words(group / "memory.current")
    if not limit or not used or limit[0] == "max":
        return free
    counts = dict(line.split() for line in _text(group / "memory.stat").splitlines())
    reclaimable = int(counts.get("file", 0)) - int(counts.get("shmem", 0))
    return min(free, max(int(limit[0]) - int(used[0]) + reclaimable, 1))


def own_group() -> Path:
    """Returns the folder of this process's control group (version 2); one that does not exist if there is none."""
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            return _GROUPS / path.lstrip("/")
    return Path("/nonexistent")


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
