"""The real command `gpusnap` as a process, with or without a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SECONDS = 60.0
PROGRAM = os.path.join(os.path.dirname(sys.executable), "gpusnap")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of stdout as JSON objects."""
        return [json.loads(line) for line in self.stdout.splitlines()]


class Gpusnap:
    """Runs the command for the given agents.

    Args:
        agents: addresses for ``--agent``.
        environ: further environment variables.
    """

    def __init__(self, *agents: str, environ: Mapping[str, str] | None = None) -> None:
        self._agents = [word for agent in agents for word in ("--agent", agent)]
        self.environ = {**os.environ, **(environ or {})}

    def run(self, *words: str) -> Ended:
        """Runs a command to its end."""
        process = self.start(*words)
        stdout, stderr = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, decoded(stdout), decoded(stderr))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts a command whose output goes into pipes."""
        return subprocess.Popen(
            self.command(*words),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def command(self, *words: str) -> Sequence[str]:
        """Returns the command line."""
        return [PROGRAM, *self._agents, *words]


class TerminalSession:
    """One command on a terminal of its own, which turns typed control characters into signals."""

    def __init__(self, gpusnap: Gpusnap, *words: str, columns: int = 120) -> None:
        self._output, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *gpusnap.command(*words)],
            env={**gpusnap.environ, "TERM": "xterm-256color"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        os.set_blocking(self._output, False)
        self._seen = b""

    def type(self, text: str) -> None:
        """Types a text."""
        os.write(self._output, text.encode())

    def read_until(self, text: str) -> str:
        """Reads until a text was shown, and returns all that was shown so far, without colours and movements."""
        deadline = time.monotonic() + SECONDS
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} was not shown:\n{self.shown}"
            if not self._read():
                assert text in self.shown, f"{text!r} was not shown:\n{self.shown}"
        return self.shown

    def wait(self) -> int:
        """Reads to the end and returns the exit code."""
        deadline = time.monotonic() + SECONDS
        while self._read():
            assert time.monotonic() < deadline, f"it did not end:\n{self.shown}"
        os.close(self._output)
        return self.process.wait(SECONDS)

    @property
    def shown(self) -> str:
        """All that was shown so far, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", decoded(self._seen)).replace("\r\n", "\n")

    def _read(self) -> bool:
        """Reads what is there; returns whether there may be more."""
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            time.sleep(0.01)
            return True
        except OSError:  # EIO: the last process that had the terminal has ended
            return False
        self._seen += data
        return bool(data)


def decoded(output: bytes) -> str:
    """Returns output as text, whatever it holds."""
    return output.decode("utf-8", "backslashreplace")
