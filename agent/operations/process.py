"""The daemon's side of an operation's process: starts it, feeds it, listens to it, stops it and always reaps it.

The request goes in as one JSON line on stdin, which then stays open: its end tells the process that the daemon died. An
empty line tells it before that the journal has what it has begun.
Messages come out as JSON lines on stdout; lines on stderr go to the agent's log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from agent import foreign
from agent.errors import DataLossError, WorkerCrashedError
from agent.events import Alive, Failed, PipelineEvent, Succeeded, WorkerMessage
from agent.operations.lines import LineSplitter
from agent.operations.request import Request
from agent.pipeline.worker_process import KEEP_OPEN

CANCEL_SECONDS = 1.5
"""How long a process that was asked to stop may clean up before it is killed; cancelling is promised within 2 s."""

EXIT_SECONDS = 5.0
"""How long a process may take to end after its last message."""

REAP_SECONDS = 30.0
"""How long the end of a killed process is waited for; only one that hangs in the kernel takes longer."""

DRAIN_SECONDS = 1.0
"""How long what a process wrote before its end is waited for."""

SILENCE_SECONDS = 120.0
"""How long a process may give no sign of life; one that is stopped, or hangs as a whole, is killed then."""

LOOKS = 12
"""In how many steps that is waited for: while the daemon itself stands still, with its machine, one passes at most."""

MAX_MESSAGE = 64 << 20
"""Bytes of one message at most. The largest is DATA_LOSS with 100 chunks of 100 paths of 4 KiB, in Base64."""

MAX_LOG_LINE = 8 << 10
"""Bytes of one line on stderr at most."""

WORKER = (sys.executable, "-m", "agent.operations.worker")
"""The command line of an operation's process."""

_GARBAGE_LOGGED = 10
_NOT_INHERITED = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})

_log = logging.getLogger(__name__)
_decoder: msgspec.json.Decoder[WorkerMessage] = msgspec.json.Decoder(WorkerMessage)


OnEvent = Callable[[PipelineEvent], "asyncio.Future[None] | None"]
"""Gets what a process reports, in the event loop; returns what must be done before the process goes on, if anything."""


class WorkerEnd(msgspec.Struct, frozen=True):
    """How the process of an operation ended.

    Attributes:
        message: its last message; ``None`` if it died before.
        return_code: its exit status; negative is the signal that killed it.
        was_silent: it gave no sign of life for too long, and was killed for that.
    """

    message: Succeeded | Failed | None
    return_code: int
    was_silent: bool = False

    @property
    def cleaned_up(self) -> bool:
        """Whether it came to its own end, so that it removed what it had made."""
        return self.message is not None and self.return_code == 0

    def crash(self) -> WorkerCrashedError:
        """Returns the error of a process that died without its last message."""
        if self.was_silent:
            how = "gave no sign of life and was killed"
        elif self.return_code >= 0:
            how = f"ended with exit status {self.return_code}"
        else:
            how = f"was killed by {_signal_name(-self.return_code)}"
        return WorkerCrashedError(f"the operation's process {how} before it was done")


class _Protocol(asyncio.SubprocessProtocol):
    """Splits what the process writes into lines and notices its end."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._name = "standby"
        self._on_event: OnEvent = lambda event: None
        self._messages = LineSplitter(MAX_MESSAGE)
        self._log_lines = LineSplitter(MAX_LOG_LINE)
        self._garbage = 0
        self._open_pipes = {1, 2}
        self.exited: asyncio.Future[object] = loop.create_future()
        self.drained: asyncio.Future[object] = loop.create_future()
        self.finished: asyncio.Future[object] = loop.create_future()
        self.final: Succeeded | Failed | None = None
        self.heard = 0
        """How often it has written anything."""
        self._stdin: asyncio.WriteTransport | None = None

    def serve(self, name: str, on_event: OnEvent) -> None:
        """Says whose process it is from now on."""
        self._name = name
        self._on_event = on_event

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pipe = cast("asyncio.SubprocessTransport", transport).get_pipe_transport(0)
        self._stdin = cast("asyncio.WriteTransport", pipe)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.heard += 1
        if fd == 1:
            for line in self._messages.feed(data):
                self._message(line)
        else:
            for line in self._log_lines.feed(data):
                _log.info("%s: %s", self._name, line.decode("utf-8", "backslashreplace"))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if not self._open_pipes and not self.drained.done():
            self.drained.set_result(None)

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

    def report_dropped(self) -> None:
        """Logs that messages were lost because they were too long."""
        if self._messages.dropped:
            _log.warning("%s: %d messages were longer than %d bytes", self._name, self._messages.dropped, MAX_MESSAGE)

    def _message(self, line: bytes) -> None:
        if self.final is not None:
            return
        try:
            message = foreign.decode(line, _decoder, "the line")
        except DataLossError:
            self._garbage += 1
            if self._garbage <= _GARBAGE_LOGGED:
                _log.warning("%s: the operation's process wrote a line that is no message: %r", self._name, line[:200])
            return
        if isinstance(message, Succeeded | Failed):
            self.final = message
            self.finished.set_result(None)
        elif not isinstance(message, Alive):
            awaited = self._on_event(message)
            if awaited is not None:
                awaited.add_done_callback(self._confirm)

    def _confirm(self, _: asyncio.Future[None]) -> None:
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(b"\n")


class OperationProcess:
    """A process for one operation, which may be started before there is one. Made by ``start_process``."""

    def __init__(self, transport: asyncio.SubprocessTransport, protocol: _Protocol) -> None:
        self._transport = transport
        self._protocol = protocol

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._transport.get_pid()

    @property
    def has_ended(self) -> bool:
        """Whether it is dead, and be it since just now."""
        if self._protocol.exited.done():
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True  # reaped already: the event loop will hear of it

    async def perform(
        self,
        name: str,
        request: Request,
        on_event: OnEvent,
        cancel: asyncio.Event,
        kill: asyncio.Event,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> WorkerEnd:
        """Has it do its operation; returns once it and all its children have ended.

        Args:
            name: the operation's name.
            request: what to do, with credentials.
            on_event: as ``OnEvent`` says.
            cancel: set to ask the process to stop; it is killed after ``CANCEL_SECONDS``.
            kill: set to kill it, so that it leaves what it has done so far for its continuation.
            silence_seconds: how long it may give no sign of life; then it is killed.
        """
        transport, protocol = self._transport, self._protocol
        protocol.serve(name, on_event)
        try:
            stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
            stdin.write(msgspec.json.encode(request) + b"\n")
            was_silent = await _until_end(transport, protocol, cancel, kill, silence_seconds)
        finally:
            await self.close()
        return_code = transport.get_returncode()
        return WorkerEnd(protocol.final, -signal.SIGKILL if return_code is None else return_code, was_silent)

    async def close(self) -> None:
        """Kills and reaps what is left of it."""
        _kill_group(self.pid)
        await asyncio.wait({self._protocol.exited}, timeout=REAP_SECONDS)
        await asyncio.wait({self._protocol.drained}, timeout=DRAIN_SECONDS)
        self._transport.close()
        self._protocol.report_dropped()


async def start_process(keep_open: int, program: Sequence[str] = WORKER) -> OperationProcess:
    """Starts a process for an operation.

    Args:
        keep_open: a file descriptor that the process and its worker processes hold for as long as they live.
        program: the process's command line.

    Raises:
        WorkerCrashedError: it could not even be started.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.subprocess_exec(
            _Protocol,
            *program,
            start_new_session=True,
            pass_fds=(keep_open,),
            env={
                **{key: value for key, value in os.environ.items() if key not in _NOT_INHERITED},
                KEEP_OPEN: str(keep_open),
            },
            # Python looks for modules in the current folder first, and that may be anyone's.
            cwd="/",
        )
    except OSError as error:
        raise WorkerCrashedError(f"the operation's process could not be started: {error.strerror}") from error
    return OperationProcess(transport, protocol)


async def _until_end(
    transport: asyncio.SubprocessTransport,
    protocol: _Protocol,
    cancel: asyncio.Event,
    kill: asyncio.Event,
    silence_seconds: float,
) -> bool:
    """Waits for the end of the process, or until it has had its time to end; says whether it gives no sign of life."""
    cancelled: asyncio.Future[object] = asyncio.ensure_future(cancel.wait())
    killed: asyncio.Future[object] = asyncio.ensure_future(kill.wait())
    waited: set[asyncio.Future[object]] = {protocol.exited, protocol.finished, cancelled, killed}
    try:
        if not await _heard_of(waited, protocol, silence_seconds):
            return True
    finally:
        cancelled.cancel()
        killed.cancel()
    if kill.is_set():
        return False
    if protocol.finished.done():
        await asyncio.wait({protocol.exited}, timeout=CANCEL_SECONDS if cancel.is_set() else EXIT_SECONDS)
    elif not protocol.exited.done():
        try:
            transport.send_signal(signal.SIGTERM)
        except ProcessLookupError:
            pass
        await asyncio.wait({protocol.exited}, timeout=CANCEL_SECONDS)
    return False


async def _heard_of(waited: set[asyncio.Future[object]], protocol: _Protocol, silence_seconds: float) -> bool:
    """Waits for one of several things; returns whether the process gave signs of life up to then."""
    silent_looks = 0
    while silent_looks < LOOKS:
        heard = protocol.heard
        done, _ = await asyncio.wait(waited, timeout=silence_seconds / LOOKS, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return True
        silent_looks = silent_looks + 1 if protocol.heard == heard else 0
    return False


def _kill_group(pid: int) -> None:
    """Kills what is left of the process and its children, which are a group of their own, named by its first process.

    That may be reaped already; the kernel gives its number to another group only once this one is empty, and then
    not before it has gone through all other numbers.
    """
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
