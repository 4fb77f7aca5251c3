"""The process of one operation: ``python -m agent.operations.worker [WORKERS]``.

With a number it was started before there is an operation: it loads what any may need, and has so many worker processes
do the same.

It reads its request as one JSON line on stdin, writes its messages as JSON lines on stdout, ends itself when the daemon
asks it to (SIGTERM), and dies with the daemon (the end of stdin): the next daemon continues from what it leaves. So it
goes on after it has ``Begun`` only once the daemon has confirmed, with an empty line, that the journal says so.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence

import msgspec

from agent.errors import describe, is_defect
from agent.events import Alive, Begun, Emit, Failed, OperationResult, PipelineEvent, Succeeded, WorkerMessage
from agent.maintenance.request import PruneRequest, VerifyRequest
from agent.operations.request import Request
from agent.pipeline.process_name import ProcessName, name_process
from agent.pipeline.standby_workers import StandbyWorkers
from agent.restore.request import RestoreRequest
from agent.snapshot.request import SnapshotRequest

CONFIRM_SECONDS = 10.0
"""How long the journal may take; an operation goes on without it, as it does when the journal's disk is full."""

WORKER_MODULES = ("agent.restore.worker", "agent.snapshot.lookout", "agent.snapshot.worker")
"""What worker processes that wait can become."""

OPERATION_MODULES = (
    "agent.restore.run",
    "agent.snapshot.look_ahead",
    "agent.snapshot.run",
    "agent.storage.auto",
    "agent.storage.s3",
    "agent.storage.s5cmd",
    "agent.storage.stream",
)
"""What an operation may need, and what takes a while to load."""

BEAT_SECONDS = 2.0
"""Time between two signs of life; ``agent.operations.process.SILENCE_SECONDS`` is much longer."""


class MessageWriter:
    """Writes messages to the daemon, from any thread, each as one line.

    Args:
        fd: where they go.
        cancel: set when nobody reads any more.
    """

    def __init__(self, fd: int, cancel: threading.Event) -> None:
        self._fd = fd
        self._cancel = cancel
        self._lock = threading.Lock()

    def write(self, message: WorkerMessage) -> None:
        """Writes one message; without a reader it does nothing but set the cancel event."""
        line = memoryview(msgspec.json.encode(message) + b"\n")
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except BrokenPipeError:
                self._cancel.set()


class Heartbeat:
    """Gives signs of life during a block, so that the daemon tells a process that waits from one that is stopped."""

    def __init__(self, writer: MessageWriter) -> None:
        self._writer = writer
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._writer.write(Alive())


def main() -> int:
    """Runs one operation; the exit status is 0 whenever the last message could be written."""
    cancel = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: cancel.set())
    with contextlib.closing(_prepared(sys.argv[1:])) as standby:
        return _serve(standby, cancel)


def _prepared(arguments: Sequence[str]) -> StandbyWorkers:
    if not arguments:
        return StandbyWorkers()
    try:
        standby = StandbyWorkers(WORKER_MODULES, int(arguments[0]))
    except OSError:
        # Whoever needs one starts it, and says why that fails.
        standby = StandbyWorkers()
    for module in OPERATION_MODULES:
        importlib.import_module(module)
    name_process(ProcessName.STANDBY)
    return standby


def _serve(standby: StandbyWorkers, cancel: threading.Event) -> int:
    line = _read_line(0)
    if not line:
        # The daemon has no operation for it any more.
        return 0
    name_process(ProcessName.OPERATION)
    request = msgspec.json.decode(line, type=Request)  # noqa: TID251 - from the daemon itself
    writer = MessageWriter(_own_stdout(), cancel)
    confirmed = threading.Event()
    threading.Thread(target=_watch_daemon, args=(confirmed,), name="daemon-watcher", daemon=True).start()

    def emit(event: PipelineEvent) -> None:
        writer.write(event)
        if isinstance(event, Begun):
            confirmed.wait(CONFIRM_SECONDS)

    with Heartbeat(writer):
        end = _perform(request, emit, cancel, standby)
    writer.write(end)
    return 0


def _perform(request: Request, emit: Emit, cancel: threading.Event, standby: StandbyWorkers) -> Succeeded | Failed:
    try:
        return Succeeded(_run(request, emit, cancel, standby))
    except Exception as error:
        if is_defect(error):
            traceback.print_exc()
        return Failed(describe(error))


def _run(request: Request, emit: Emit, cancel: threading.Event, standby: StandbyWorkers) -> OperationResult:
    # Only the pipeline that is needed is imported: it is on the way to the first byte.
    if isinstance(request, SnapshotRequest):
        from agent.snapshot.look_ahead import looking_ahead

        with looking_ahead(request, standby) as ahead:
            from agent.snapshot.run import run as run_snapshot

            return run_snapshot(request, emit, cancel, ahead, standby)
    if isinstance(request, RestoreRequest):
        from agent.restore.run import run as run_restore

        return run_restore(request, emit, cancel, standby)
    standby.close()
    if isinstance(request, VerifyRequest):
        from agent.maintenance.verify import run as run_verify

        return run_verify(request, emit, cancel)
    if isinstance(request, PruneRequest):
        from agent.maintenance.prune import run as run_prune

        return run_prune(request, emit, cancel)
    from agent.maintenance.benchmark import run as run_benchmark

    return run_benchmark(request, emit, cancel)


def _read_line(fd: int) -> bytes:
    """Reads up to the first line's end, and not through ``sys.stdin``: its lock would block the interpreter's exit."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(fd, 1 << 16)
        if not piece:
            break
        line += piece
    return line


def _own_stdout() -> int:
    """Returns stdout for the messages alone; whatever else is printed goes to stderr."""
    messages = os.dup(1)
    os.dup2(2, 1)
    return messages


def _watch_daemon(confirmed: threading.Event) -> None:
    while os.read(0, 4096):
        confirmed.set()
    # The process leads a group of its own, so this reaches its children and nothing else.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # The daemon waits for the end of this process: taking all objects apart first would take it longer.
    os._exit(code)
