"""Starting processes that never outlive the one that started them, and finding free ports for them."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

# Below the kernel's range for outgoing connections (32768 and up), so that no client takes a port in between.
_FIRST_PORT = 10_000
_LAST_PORT = 21_999


def start_child(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: IO[bytes] | None = None,
    folder: str | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a program that the kernel kills when the calling thread ends, however that happens.

    It gets a process group of its own, so that Ctrl-C reaches only the caller, who then ends it in order.

    Args:
        arguments: the program and its arguments.
        environment: all of its variables.
        log: where its output goes; nowhere when ``None``.
        folder: where it runs; the caller's when ``None``.
    """
    setpriv = shutil.which("setpriv")
    guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    return subprocess.Popen(
        [*guard, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log if log is not None else subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
    )


def stop_child(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Ends a program: SIGTERM, and SIGKILL for its whole process group if it is still there after ``seconds``."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_child(child)


def kill_child(child: subprocess.Popen[bytes]) -> None:
    """Kills a program's process group at once and reaps it."""
    if child.poll() is None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()


def program_beside_python(name: str) -> str:
    """Returns the program ``name`` installed beside this Python, or from PATH.

    Raises:
        FileNotFoundError: it is in neither.
    """
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name}: not found beside {sys.executable} nor on PATH")
    return found


def show_command(variables: Mapping[str, str], command: Sequence[str]) -> str:
    """Writes a command with its variables as a shell takes it."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return " ".join([*settings, *map(shlex.quote, command)])


def free_port(taken: set[int], offset: int = 0) -> int:
    """Returns a port that is free on 127.0.0.1, whose neighbour ``offset`` above is free too; adds both to ``taken``.

    Raises:
        OSError: none was found in 200 tries.
    """
    for _ in range(200):
        port = random.SystemRandom().randint(_FIRST_PORT, _LAST_PORT)
        wanted = {port, port + offset}
        if not wanted & taken and all(_is_free(candidate) for candidate in wanted):
            taken |= wanted
            return port
    raise OSError("no free port found on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
