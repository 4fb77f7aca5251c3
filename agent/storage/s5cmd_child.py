"""One running s5cmd: its pipes are drained by threads of their own, and its end is reported once."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO

EXIT_SECONDS = 10.0
"""How long s5cmd may take to end after its input has ended, or after it has closed its output."""

LINE_LIMIT = 64 << 10


class Child:
    """A process in a session of its own, which the kernel kills when the thread that made it ends.

    Args:
        name: for the names of its threads.
        arguments: the program and its arguments.
        environment: its environment.
        on_line: takes each line of its output, from two threads.
        on_end: called once with its exit status, after its last line.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        on_line: Callable[[bytes], None],
        on_end: Callable[[int], None],
    ) -> None:
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._on_line = on_line
        self._on_end = on_end
        self._lock = threading.Lock()
        self._open_pipes = 2
        self._readers = [
            threading.Thread(target=self._read, args=(pipe,), name=f"{name}-reader", daemon=True)
            for pipe in (self._process.stdout, self._process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    @property
    def ending(self) -> bool:
        """Whether it has closed its output: it takes no more lines."""
        with self._lock:
            return self._open_pipes < 2

    def send(self, line: bytes) -> None:
        """Writes a line to its input.

        Raises:
            OSError: it has died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except ValueError as error:  # its input was closed when its end was seen
            raise BrokenPipeError from error

    def end_input(self) -> None:
        """Closes its input, so that it ends once it has done what was sent."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it died with a line unread

    def kill(self) -> None:
        """Kills it and whatever it has started."""
        if self._process.returncode is not None:
            return  # reaped: the number may be another process's by now
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def join(self, patience: float) -> None:
        """Waits until its end has been reported, and kills it after ``patience`` seconds."""
        deadline = time.monotonic() + patience
        for reader in self._readers:
            reader.join(max(deadline - time.monotonic(), 0.0))
        self.kill()
        for reader in self._readers:
            reader.join()

    def bytes_written(self) -> int | None:
        """Returns the bytes it has written to sockets and files so far; ``None`` if the kernel does not say."""
        try:
            with open(f"/proc/{self._process.pid}/io", "rb") as file:
                for line in file:
                    if line.startswith(b"wchar:"):
                        return int(line.split()[1])
        except (OSError, ValueError):
            pass
        return None

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(LINE_LIMIT):
                self._on_line(line)
        status = self._reap()
        with self._lock:
            self._open_pipes -= 1
            if self._open_pipes:
                return
        self.end_input()
        self._on_end(status)

    def _reap(self) -> int:
        try:
            return self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()
