"""The process of one operation, without an agent: to be stopped and killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from agent.events import Begun, Failed, Succeeded, WorkerMessage
from agent.operations.request import Request

SECONDS = 120.0


class Worker:
    """Runs a request as an agent would, in a process group of its own."""

    def __init__(self, request: Request) -> None:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agent.operations.worker"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": f"{root}:{root}/proto"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._messages: list[WorkerMessage] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(request) + b"\n")
        self._process.stdin.flush()

    @property
    def has_ended(self) -> bool:
        """Whether the process itself has ended."""
        return self._process.poll() is not None

    @property
    def seen(self) -> list[WorkerMessage]:
        """What it has written so far."""
        return list(self._messages)

    @property
    def messages(self) -> int:
        """How many messages it has written so far."""
        return len(self._messages)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and all that it has started."""
        os.killpg(self._process.pid, number)

    def end(self) -> Succeeded | Failed | None:
        """Waits for its end and returns its last message; ``None`` if it was killed before."""
        self._process.wait(SECONDS)
        self._reader.join(SECONDS)
        last = self._messages[-1] if self._messages else None
        return last if isinstance(last, Succeeded | Failed) else None

    def close(self) -> None:
        """Kills what is left of it."""
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self._process.wait(SECONDS)
        self._reader.join(SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = msgspec.json.decode(line, type=WorkerMessage)
            self._messages.append(message)
            if isinstance(message, Begun):
                self._confirm()

    def _confirm(self) -> None:
        """Lets it go on with what it has begun, as an agent does once its journal has that."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
