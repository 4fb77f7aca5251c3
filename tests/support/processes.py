"""What the kernel says about processes and folders, and waiting for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Waits until ``condition`` holds; fails the test if it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.01)


def children_called(name: str, parent: int | None = None) -> set[int]:
    """Returns the live children of a process (this one by default) whose program has this name."""
    return {pid for pid, command in _children(parent).items() if command == name}


def processes_running(module: str) -> set[int]:
    """Returns the live children of this process that run a Python module."""
    return {pid for pid in _children() if module.encode() in _arguments(pid)}


def is_running(process: int) -> bool:
    """Whether a process exists and has not ended; one that waits to be reaped has."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children(parent: int | None = None) -> dict[int, str]:
    parent = os.getpid() if parent is None else parent
    facts = {int(entry): _command_and_parent(entry) for entry in os.listdir("/proc") if entry.isdigit()}
    return {pid: known[0] for pid, known in facts.items() if known and known[1] == parent}


def _command_and_parent(process: str) -> tuple[str, int] | None:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = tail.split()[:2]
    return None if state == b"Z" else (head.partition(b"(")[2].decode(), int(parent))


def _arguments(process: int) -> list[bytes]:
    """Returns what a process was started with; a program that has just begun has nothing yet, which is waited for."""
    while True:
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:
                arguments = file.read()
        except (FileNotFoundError, ProcessLookupError):
            return []
        if arguments or not is_running(process):
            return arguments.split(b"\0")
