"""How long the processors that this process may use have nothing to do."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import msgspec

from agent.pipeline.workers import own_group

_STAT = Path("/proc/stat")
_IDLE, _WAITING_FOR_DISKS = 4, 5


class Reading(msgspec.Struct, frozen=True):
    """What the kernel says at one moment, in seconds. Only differences between two mean anything.

    Attributes:
        time: by the monotonic clock.
        idle: what the processors were idle for, added up; infinite if nobody knows.
        processors: how many this process may use.
        used: what the control group has used of them; 0 if it has no quota.
        quota: processors that the control group may use at once; infinite if it has no quota.
    """

    time: float
    idle: float
    processors: int = 1
    used: float = 0.0
    quota: float = math.inf


def idle_seconds(before: Reading, after: Reading) -> float:
    """Returns the processor seconds that were left over between two readings; infinite if nobody knows. Pure."""
    if math.isinf(after.idle):
        return math.inf
    quota = math.inf if math.isinf(after.quota) else after.quota * (after.time - before.time)
    return max(min(after.idle - before.idle, quota - (after.used - before.used)), 0.0)


def usable_seconds(before: Reading, after: Reading) -> float:
    """Returns the processor seconds that could be used between two readings. Pure."""
    return min(after.processors, after.quota) * (after.time - before.time)


def read_processors(stat: Path = _STAT, group: Path | None = None) -> Reading:
    """Reads how much the processors have been idle up to now."""
    group, usable = group or own_group(), os.sched_getaffinity(0)
    try:
        idle = _idle(stat.read_text(encoding="ascii"), usable)
    except (OSError, ValueError, IndexError):
        idle = math.inf
    try:
        most, period = (group / "cpu.max").read_text(encoding="ascii").split()
        used = dict(line.split() for line in (group / "cpu.stat").read_text(encoding="ascii").splitlines())
        return Reading(time.monotonic(), idle, len(usable), int(used["usage_usec"]) / 1e6, int(most) / int(period))
    except (OSError, ValueError, KeyError):
        return Reading(time.monotonic(), idle, len(usable))


def _idle(stat: str, processors: set[int]) -> float:
    names = {f"cpu{number}" for number in processors}
    lines = [words for line in stat.splitlines() if line.startswith("cpu") and (words := line.split())[0] in names]
    if not lines:
        raise ValueError("it says nothing of them")
    return sum(int(words[_IDLE]) + int(words[_WAITING_FOR_DISKS]) for words in lines) / os.sysconf("SC_CLK_TCK")
