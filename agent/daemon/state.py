"""The state folder belongs to one agent at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import time

from agent.errors import ConfigError

AGENT_LOCK = "agent.lock"
"""Held by the agent."""

WORKERS_LOCK = "workers.lock"
"""Held by the agent and the processes of its operations, which may outlive an agent that was killed."""

WORKERS_SECONDS = 20.0
"""How long those processes are waited for; they die with their agent, if the kernel lets them."""


class StateFolder:
    """The agent's hold on its state folder, until ``close`` or the end of the process.

    Args:
        path: made when it is missing.

    Raises:
        ConfigError: it cannot be made or written, another agent has it, or processes of a former agent do not end.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            self._agent = _open_lock(os.path.join(path, AGENT_LOCK))
            self.workers_lock = _open_lock(os.path.join(path, WORKERS_LOCK))
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise ConfigError(
                f"[agent] state_dir {path} cannot be used: {error.strerror}",
                hint="free space there" if is_full else "give the agent's user a folder that it may write",
            ) from error
        if not _lock(self._agent, 0.0):
            raise ConfigError(
                f"[agent] state_dir {path} is in use by another agent", hint="end that agent, or give this one its own"
            )
        if not _lock(self.workers_lock, WORKERS_SECONDS):
            raise ConfigError(
                f"[agent] state_dir {path}: an operation of a former agent still runs",
                hint="end the processes that run agent.operations.worker",
            )

    def close(self) -> None:
        """Lets the next agent have it."""
        os.close(self.workers_lock)
        os.close(self._agent)


def _open_lock(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(fd: int, seconds: float) -> bool:
    """Returns whether the lock could be had within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        else:
            return True
