"""The agent of the demonstration, and the commands that drive it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import IO

from controller_client.demo.children import program_beside_python, start_child, stop_child
from controller_client.errors import GpusnapError
from controller_client.model import HealthStatus, OperationResult
from controller_client.sync import SyncAgentClient

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "TMPDIR")


class AgentError(Exception):
    """The agent did not start, or a command failed; the message is one line."""


class DemoAgent:
    """`gpusnap-agent serve` with everything of its own in one folder.

    Args:
        folder: an existing folder for its socket, journal and log, short enough for a socket's path.
        staging: the folder for chunks on their way.
        workspace_root: what it may save and restore.
        storage: the variables that name its storage.
        metrics_port: a free port.
    """

    def __init__(
        self, folder: str, staging: str, workspace_root: str, storage: Mapping[str, str], metrics_port: int
    ) -> None:
        self.address = f"unix:{folder}/agent.sock"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self.variables = {
            "GPUSNAP_AGENT__LISTEN": self.address,
            "GPUSNAP_AGENT__METRICS_LISTEN": f"127.0.0.1:{metrics_port}",
            "GPUSNAP_AGENT__STATE_DIR": os.path.join(folder, "state"),
            "GPUSNAP_AGENT__STAGING_DIR": staging,
            "GPUSNAP_AGENT__WORKSPACE_ROOTS": workspace_root,
            **storage,
        }
        self._log_path = os.path.join(folder, "agent.log")
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 60.0) -> None:
        """Starts it and returns once it serves and reaches its store.

        Raises:
            AgentError: it ended, or was not ready within ``seconds``.
        """
        self._log = open(self._log_path, "ab")  # noqa: SIM115 - open as long as the process
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | self.variables
        command = [program_beside_python("gpusnap-agent"), "serve"]
        self._process = start_child(command, environment=environment, log=self._log)
        deadline = time.monotonic() + seconds
        while problem := self._problem():
            if self._process.poll() is not None:
                raise AgentError(f"gpusnap-agent ended with status {self._process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise AgentError(f"gpusnap-agent was not ready within {seconds:.0f} seconds: {problem}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends it in order."""
        if self._process is not None:
            stop_child(self._process, 20.0)
        if self._log is not None:
            self._log.close()

    def run(self, *words: str) -> None:
        """Runs a command of `gpusnap` on this agent, with progress on the user's terminal.

        Raises:
            AgentError: it failed.
        """
        command = [program_beside_python("gpusnap"), "--agent", self.address, *words]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode
        # 3: done with warnings, which the command has shown; the comparison will tell what they mean.
        if code not in (0, 3):
            raise AgentError(
                f"`gpusnap {' '.join(words)}` failed with exit code {code}; the agent said: {self._last_words()}"
            )

    def last_result(self) -> OperationResult:
        """Returns the result of the operation that was started last.

        Raises:
            AgentError: it has none.
        """
        with SyncAgentClient(self.address) as client:
            newest = next(iter(client.list_operations()), None)
            completed = client.get_operation(newest.name).completed if newest is not None else None
        if completed is None or completed.result is None:
            raise AgentError("the agent's last operation has no result")
        return completed.result

    def _problem(self) -> str:
        """Returns why it is not ready yet; nothing if it is."""
        if not os.path.exists(self.address.removeprefix("unix:")):
            return "it does not listen"
        try:
            with SyncAgentClient(self.address) as client:
                if client.health() is not HealthStatus.SERVING:
                    return "it does not serve"
                failed = next((step.error for step in client.check_storage().steps if step.error is not None), None)
        except GpusnapError as error:
            return str(error)
        return failed.message if failed is not None else ""

    def _last_words(self) -> str:
        with open(self._log_path, "rb") as log:
            lines = log.read().decode("utf-8", "replace").splitlines()
        return " / ".join(line.strip() for line in lines[-3:]) or "nothing"


def staging_folder(folder: str, needed: int, *, in_memory: bool) -> str:
    """Makes a folder for chunks on their way: in memory if allowed and ``needed`` bytes fit, else in ``folder``."""
    memory = "/dev/shm"  # noqa: S108 - a new folder of our own within
    if in_memory and os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free > 2 * needed:
        return tempfile.mkdtemp(prefix="gpusnap-demo-", dir=memory)
    os.mkdir(os.path.join(folder, "staging"))
    return os.path.join(folder, "staging")
