"""Worker processes: each does the tasks of one thread of an operation in an interpreter of its own.

A task and its answer are messages of a few hundred bytes. The bytes they are about stay where they are, in a file or in
shared memory, whose descriptor goes along.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

END_SECONDS = 5.0
"""How long an idle worker process may take to end when it is told to; then it is killed."""

SILENCE_SECONDS = 120.0
"""How long a worker process may give no sign of life while its answer is waited for; then it is taken for dead."""

LOOKS = 12
"""In how many steps that is waited for: while the operation itself stands still, one passes at most."""

BEAT_SECONDS = 10.0
"""Time between two signs of life of a worker process."""

KILL_SECONDS = 30.0
"""How long the end of a killed process is waited for; only one that hangs in the kernel takes longer."""

KEEP_OPEN = "GPUSNAP_KEEP_OPEN"
"""The variable with the number of a descriptor that every process of an operation holds for as long as it lives."""

_SIZE_BYTES = 8
_MOST_DESCRIPTORS = 4
_BEAT = b"\xff" * _SIZE_BYTES

_T = TypeVar("_T")


class WorkerDiedError(Exception):
    """The other end of a connection is gone. Never leaves the pipelines."""


class Connection:
    """One end of the connection between an operation and a worker process. Messages with descriptors, in order.

    Args:
        silence_seconds: how long the other end may be silent while something is expected of it; ``None`` for any time.
            May be changed.
    """

    def __init__(self, end: socket.socket, silence_seconds: float | None = None) -> None:
        self._end = end
        self.silence_seconds = silence_seconds
        self._sending = threading.Lock()

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Sends a message and copies of descriptors.

        Raises:
            WorkerDiedError: nobody reads it.
        """
        size = len(message).to_bytes(_SIZE_BYTES, "little")
        try:
            with self._sending:
                self._end.settimeout(self.silence_seconds)
                if descriptors:
                    socket.send_fds(self._end, [size], list(descriptors))
                else:
                    self._end.sendall(size)
                self._end.sendall(message)
        except OSError as error:
            raise WorkerDiedError from error

    def beat(self) -> None:
        """Gives a sign of life.

        Raises:
            WorkerDiedError: nobody reads it.
        """
        try:
            with self._sending:
                self._end.sendall(_BEAT)
        except OSError as error:
            raise WorkerDiedError from error

    def receive(self) -> tuple[bytes, list[int]]:
        """Waits for a message; returns it with its descriptors, which the caller closes.

        Raises:
            WorkerDiedError: there will be none, or the other end gives no sign of life.
        """
        try:
            if self.silence_seconds is not None:
                self._end.settimeout(self.silence_seconds / LOOKS)
            while True:
                size, descriptors, _, _ = _patiently(socket.recv_fds, self._end, _SIZE_BYTES, _MOST_DESCRIPTORS)
                size += self._exactly(_SIZE_BYTES - len(size))
                if size != _BEAT:
                    return self._exactly(int.from_bytes(size, "little")), descriptors
        except OSError as error:
            raise WorkerDiedError from error

    def close(self) -> None:
        """Closes it; the other end then sees that."""
        self._end.close()

    def _exactly(self, size: int) -> bytes:
        message = bytearray(size)
        left = memoryview(message)
        while left:
            count = _patiently(self._end.recv_into, left)
            if count == 0:
                raise ConnectionResetError
            left = left[count:]
        return bytes(message)


def _patiently(read: Callable[..., _T], *arguments: object) -> _T:
    """Reads; only when that has timed out ``LOOKS`` times in a row the silence is too long."""
    for _ in range(LOOKS - 1):
        with contextlib.suppress(TimeoutError):
            return read(*arguments)
    return read(*arguments)


class WorkerProcess:
    """A worker process, started at once.

    It belongs to the process group of the operation, and ends when its connection does.

    Args:
        module: what it runs; its ``main`` finds the connection with ``own_connection``.
        silence_seconds: how long it may be silent while its answer is waited for; with ``beating`` it never is.
        arguments: further arguments of its command line.
    """

    def __init__(self, module: str, silence_seconds: float = SILENCE_SECONDS, arguments: Sequence[str] = ()) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", module, str(theirs.fileno()), *arguments]
            held = [int(os.environ[KEEP_OPEN])] if KEEP_OPEN in os.environ else []
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), *held), cwd="/"
                )
            except BaseException:
                ours.close()
                raise
        self.connection = Connection(ours, silence_seconds)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def end(self) -> str:
        """Ends it and reaps it, killing it if it does not end; says how it ended."""
        self.connection.close()
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = self.kill()
        if code >= 0:
            return f"exit status {code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"

    def dismiss(self) -> None:
        """Ends it while it is idle: at once, as it holds nothing that an orderly end would save."""
        self.kill()
        self.connection.close()

    def kill(self) -> int:
        """Kills and reaps it; whoever waits for its answer gets WorkerDiedError."""
        self._process.kill()
        try:
            return self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL


def beating(connection: Connection) -> Connection:
    """Gives signs of life from now on, from a thread of their own, whatever the process does. Returns its argument."""

    def beat() -> None:
        with contextlib.suppress(WorkerDiedError):
            while not threading.Event().wait(BEAT_SECONDS):
                connection.beat()

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
    return connection


@functools.cache
def own_connection() -> Connection:
    """Returns the connection of the worker process that this is."""
    return Connection(socket.socket(fileno=int(sys.argv[1])))


@contextlib.contextmanager
def received(descriptors: Sequence[int]) -> Iterator[None]:
    """Closes descriptors that came with a message after the block."""
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
