"""The real agent as a process, with a folder of its own for everything."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from agent.operations.journal import FILE_NAME
from agent.operations.order import Order, from_journal
from agent.pipeline.process_name import ProcessName

START_SECONDS = 60.0
STOP_SECONDS = 30.0

_ROLES = {
    b"agent.operations.worker": ProcessName.OPERATION,
    b"agent.pipeline.standby_workers": ProcessName.STANDBY,
    b"agent.restore.worker": ProcessName.WRITE,
    b"agent.snapshot.lookout": ProcessName.LOOKOUT,
    b"agent.snapshot.worker": ProcessName.PACK,
}
"""What the modules are that processes run."""

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


class Daemon:
    """One agent below ``folder``; ``start`` and ``stop`` may alternate, and everything stays in place between them.

    Args:
        folder: an empty folder; short, as the socket's path must be below 108 bytes.
        storage: environment variables that name the storage; a local folder by default.
        environ: further environment variables.
        flags: further flags of `gpusnap-agent serve`.
        under: what runs the agent, such as a change of the user.
    """

    def __init__(
        self,
        folder: Path,
        storage: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        under: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.workspace_root = folder / "ws"
        self.repository = folder / "repo"
        self.state_dir = folder / "state"
        self.staging_dir = folder / "staging"
        self.address = f"unix:{folder}/agent.sock"
        """Where clients connect."""
        self.tcp_address = ""
        """The same over TCP; known once it is ready."""
        self.metrics_url = ""
        """Where the metrics are; known once it is ready."""
        self.log_path = folder / "agent.log"
        for made in (self.workspace_root, self.repository):
            made.mkdir(parents=True, exist_ok=True)
        if storage is None:
            storage = {"STORAGE_PROVIDER": "local", "STORAGE_ENDPOINT": str(self.repository)}
        self.environ = {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "GPUSNAP_AGENT__LISTEN": f"{self.address},127.0.0.1:0",
            "GPUSNAP_AGENT__METRICS_LISTEN": "127.0.0.1:0",
            "GPUSNAP_AGENT__STATE_DIR": str(self.state_dir),
            "GPUSNAP_AGENT__STAGING_DIR": str(self.staging_dir),
            "GPUSNAP_AGENT__WORKSPACE_ROOTS": str(self.workspace_root),
            **storage,
            **(environ or {}),
        }
        self._flags = list(flags)
        self._under = list(under)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The number of the agent's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written to its log since it was last started."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def start(self, *flags: str) -> None:
        """Starts it and returns once it is ready."""
        self.launch(*flags)
        deadline = time.monotonic() + START_SECONDS
        while " is ready" not in self.log:
            assert self._process is not None
            assert self._process.poll() is None, f"the agent ended at its start:\n{self.log}"
            assert time.monotonic() < deadline, f"the agent did not get ready:\n{self.log}"
            time.sleep(0.02)
        log = self.log
        self.tcp_address = _found(r"listening on (127\.0\.0\.1:\d+)", log)
        self.metrics_url = _found(r"metrics on (\S+)", log)

    def launch(self, *flags: str) -> subprocess.Popen[bytes]:
        """Starts it and returns at once."""
        assert self._process is None or self._process.poll() is not None
        program = os.path.join(os.path.dirname(sys.executable), "gpusnap-agent")
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*self._under, program, "serve", *self._flags, *flags],
                env=self.environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self._process

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it with a signal, waits for its end and returns its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Waits for its end and returns its exit status."""
        assert self._process is not None
        return self._process.wait(seconds)

    def close(self) -> None:
        """Ends it, however it stands."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)


_Order = TypeVar("_Order", bound=Order)


def orders(daemon: Daemon, kind: type[_Order]) -> list[_Order]:
    """Returns what an agent was asked for of one kind, the first first, as its journal keeps it."""
    with contextlib.closing(sqlite3.connect(daemon.state_dir / FILE_NAME)) as db:
        rows = db.execute("SELECT request FROM operations ORDER BY number").fetchall()
    return [order for (request,) in rows if isinstance(order := from_journal(request), kind)]


def descendants(pid: int) -> set[int]:
    """Returns the processes that a process has started, and those that they have started; ended ones do not count."""
    parents = {}
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{int(entry)}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except (ValueError, FileNotFoundError, ProcessLookupError):
            continue
        if state != b"Z":
            parents[int(entry)] = int(parent)
    found: set[int] = set()
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found |= level
    return found


def role_of(pid: int) -> ProcessName | None:
    """Returns what a process of an agent is; ``None`` for anything else, or if it is gone."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    known = next((role for role in ProcessName if role.value == name), None)
    # One that has just begun has not named itself. An operation's process that is to wait has an argument.
    is_to_wait = arguments[2:3] == [b"agent.operations.worker"] and len(arguments) > 4
    return known or (ProcessName.STANDBY if is_to_wait else _ROLES.get(b"".join(arguments[2:3])))


def working(pid: int) -> set[int]:
    """Returns the processes of an agent's operations: what it has started, but for what waits for the next one."""
    return {process for process in descendants(pid) if role_of(process) is not ProcessName.STANDBY}


def _found(pattern: str, log: str) -> str:
    match = re.search(pattern, log)
    return match.group(1) if match else ""
