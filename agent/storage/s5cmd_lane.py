"""One long-lived s5cmd for one direction: commands go in, every transfer's end comes out exactly once."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import IO

from agent.errors import CancelledError, EngineUnavailableError, GpusnapError
from agent.storage.failure import Failure, FailureKind, to_error
from agent.storage.retry import RetryPolicy
from agent.storage.s5cmd_lines import Answer, parse_line

PIPE_BYTES = 32 << 10
"""Unanswered command bytes at most: half of what a pipe holds, so that writing never blocks."""

DEATHS_IN_A_ROW = 4
"""Ends of s5cmd without a single answer between them after which it is given up."""

ATTEMPTS_AMONG_PROGRESS = 20
"""How often one object is tried while others get through."""

TICK_SECONDS = 1.0
"""How often progress is looked at."""

PROGRESS_BYTES = 64 << 10
"""Bytes written by s5cmd that count as progress: more than the requests of a few retries."""

EXIT_SECONDS = 10.0
"""How long s5cmd may take to end after its standard input has ended."""

LINE_LIMIT = 64 << 10


def _nothing() -> None:
    """Cleans nothing up: a broken upload leaves nothing behind."""


@dataclasses.dataclass(eq=False)
class Transfer:
    """One object to move.

    Attributes:
        path: the staged file; s5cmd's answers are matched by its name.
        line: the command.
        location: the store, for messages.
        key: the object, for messages.
        done: takes the seconds since it was first sent, the attempts, and the error or ``None``; called exactly once.
        clean: removes what a broken attempt may have left.
    """

    path: str
    line: bytes
    location: str
    key: str
    done: Callable[[float, int, GpusnapError | None], None]
    clean: Callable[[], None] = _nothing
    attempts: int = 0
    first_sent: float = 0.0
    sent: float = 0.0
    sent_moved: int = 0
    failing_since: float | None = None

    @property
    def token(self) -> str:
        """What names it in the lines of s5cmd."""
        return os.path.basename(self.path)

    def finish(self, error: GpusnapError | None) -> None:
        """Reports its end."""
        seconds = time.monotonic() - self.first_sent if self.attempts else 0.0
        self.done(seconds, self.attempts, error)


@dataclasses.dataclass(eq=False)
class _Child:
    """A running s5cmd."""

    process: subprocess.Popen[bytes]
    readers: list[threading.Thread] = dataclasses.field(default_factory=list)
    open_pipes: int = 2
    moved: int = 0
    last_words: str = ""
    stalled: bool = False

    def kill(self) -> None:
        if self.process.returncode is not None:
            return  # reaped: the number may be another process's by now
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def bytes_moved(self) -> int:
        """Bytes it has written so far, to sockets or files: what tells slow from stalled."""
        try:
            with open(f"/proc/{self.process.pid}/io", "rb") as file:
                for line in file:
                    if line.startswith(b"wchar:"):
                        return int(line.split()[1])
        except (OSError, ValueError):
            pass
        return self.moved


_Finished = list[tuple[Transfer, GpusnapError | None]]


class Lane:
    """Feeds one s5cmd, restarts it when it dies, kills it when it stalls, and tries again what failed for a while.

    Args:
        name: for the names of its threads.
        arguments: the program and its arguments.
        environment: its environment.
        workers: commands it works on at once.
        policy: how long an object is tried.
        stall_bytes: bytes that may pass while one object gets no answer; more means that it is stuck.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        workers: int,
        policy: RetryPolicy,
        stall_bytes: int,
    ) -> None:
        self._name = name
        self._arguments = arguments
        self._environment = environment
        self._workers = workers
        self._policy = policy
        self._stall_bytes = stall_bytes
        self._changed = threading.Condition(threading.Lock())
        self._ready: deque[Transfer] = deque()
        self._delayed: list[tuple[float, int, Transfer]] = []
        self._order = itertools.count()
        self._sent: dict[str, Transfer] = {}
        self._child: _Child | None = None
        self._last_child: _Child | None = None
        self._deaths = 0
        self._progress = time.monotonic()
        self._closing = False
        self._aborted = False
        self._driver = threading.Thread(target=self._drive, name=f"{name}-driver", daemon=True)
        self._driver.start()

    def submit(self, transfer: Transfer) -> None:
        """Queues a transfer; its ``done`` is called later, from another thread."""
        with self._changed:
            if not self._closing and not self._aborted:
                self._ready.append(transfer)
                self._changed.notify_all()
                return
        transfer.finish(_cancelled())

    def close(self) -> None:
        """Waits until everything queued is done and s5cmd has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._driver.join()

    def abort(self) -> None:
        """Kills s5cmd, reaps it, and fails everything that is not done with CancelledError."""
        with self._changed:
            self._aborted = True
            if self._child:
                self._child.kill()
            self._changed.notify_all()
        self._driver.join()

    def _drive(self) -> None:
        try:
            while True:
                with self._changed:
                    if self._aborted or (self._closing and not self._pending()):
                        break
                    finished = self._step()
                _finish(finished)
        finally:
            self._end()

    def _pending(self) -> bool:
        return bool(self._ready or self._delayed or self._sent)

    def _step(self) -> _Finished:
        """Does what is due, or waits for something to happen."""
        now = time.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.append(heapq.heappop(self._delayed)[2])
        self._watch(now)
        if self._ready and self._may_send(self._ready[0]):
            return self._send()
        if not self._sent and not self._delayed:
            self._changed.wait()
        else:
            due = self._delayed[0][0] - now if self._delayed else TICK_SECONDS
            self._changed.wait(min(max(due, 0.0), TICK_SECONDS))
        return []

    def _may_send(self, transfer: Transfer) -> bool:
        if self._child is not None and self._child.open_pipes < 2:
            return False  # it is dying; its last answers are still being read
        unanswered = sum(len(sent.line) for sent in self._sent.values())
        return len(self._sent) < self._workers and (not self._sent or unanswered + len(transfer.line) <= PIPE_BYTES)

    def _send(self) -> _Finished:
        transfer = self._ready.popleft()
        try:
            child = self._child or self._start()
        except OSError as error:
            problem = EngineUnavailableError(f"{self._arguments[0]} cannot be started: {error.strerror}")
            return [(transfer, problem)]
        now = time.monotonic()
        transfer.attempts += 1
        transfer.first_sent = transfer.first_sent or now
        transfer.sent = now
        transfer.sent_moved = child.moved
        self._sent[transfer.token] = transfer
        try:
            _write(child.process, transfer.line)
        except OSError:
            pass  # it died: its readers see that, and what was sent is tried again
        return []

    def _start(self) -> _Child:
        process = subprocess.Popen(
            self._arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )
        child = self._child = self._last_child = _Child(process)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            reader = threading.Thread(target=self._read, args=(child, pipe), name=f"{self._name}-reader", daemon=True)
            child.readers.append(reader)
            reader.start()
        return child

    def _read(self, child: _Child, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(LINE_LIMIT):
                answer = parse_line(line)
                if isinstance(answer, Answer):
                    self._answered(answer)
                elif answer.text:
                    child.last_words = answer.text
        with self._changed:
            child.open_pipes -= 1
            if child.open_pipes:
                return
        self._died(child)

    def _answered(self, answer: Answer) -> None:
        with self._changed:
            transfer = next((self._sent.pop(token) for token in answer.tokens if token in self._sent), None)
            self._deaths = 0
            finished: _Finished = []
            if transfer and answer.failure is None:
                self._progress = time.monotonic()
                finished = [(transfer, None)]
            elif transfer and answer.failure:
                finished = self._failed(transfer, answer.failure)
            self._changed.notify_all()
        _finish(finished)

    def _failed(self, transfer: Transfer, failure: Failure) -> _Finished:
        """Queues another try, or returns the transfer with its error."""
        now = time.monotonic()
        error = to_error(failure, transfer.location, transfer.key)
        if failure.kind is not FailureKind.UNAVAILABLE:
            return [(transfer, error)]
        if transfer.failing_since is None:
            transfer.failing_since = max(transfer.sent, min(self._progress, now))
        delay = self._policy.delay(transfer.attempts)
        gone = now + delay - max(transfer.failing_since, self._progress) > self._policy.seconds
        hopeless = now + delay - transfer.failing_since > self._policy.seconds
        if gone or (hopeless and transfer.attempts >= ATTEMPTS_AMONG_PROGRESS):
            return [(transfer, error)]
        self._again(transfer, now + delay)
        return []

    def _again(self, transfer: Transfer, due: float) -> None:
        heapq.heappush(self._delayed, (due, next(self._order), transfer))

    def _watch(self, now: float) -> None:
        """Kills s5cmd when nothing moves any more, or when one object is left behind."""
        child = self._child
        if child is None or not self._sent or child.stalled:
            return
        moved = child.bytes_moved()
        if moved - child.moved >= PROGRESS_BYTES:
            child.moved = moved
            self._progress = now
        still = now - max(self._progress, max(sent.sent for sent in self._sent.values()))
        left_behind = any(child.moved - sent.sent_moved > self._stall_bytes for sent in self._sent.values())
        if still > self._policy.seconds or left_behind:
            child.stalled = True
            child.kill()

    def _died(self, child: _Child) -> None:
        """Called by the last reader of a child, after its last answer."""
        status = _reap(child)
        with self._changed:
            lost = list(self._sent.values())
        for transfer in lost:
            transfer.clean()
        with self._changed:
            self._sent.clear()
            self._child = None
            finished = self._recover(child, lost, status)
            self._changed.notify_all()
        _finish(finished)

    def _recover(self, child: _Child, lost: list[Transfer], status: int) -> _Finished:
        if self._aborted:
            return [(transfer, _cancelled()) for transfer in lost]
        if child.stalled:
            failure = Failure(FailureKind.UNAVAILABLE, "the store stopped answering")
            return [ended for transfer in lost for ended in self._failed(transfer, failure)]
        if lost:
            self._deaths += 1
        if self._deaths < DEATHS_IN_A_ROW:
            due = time.monotonic() + self._policy.delay(max(self._deaths, 1))
            for transfer in lost:
                self._again(transfer, due)
            return []
        self._deaths = 0
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        words = f"; its last words: {child.last_words}" if child.last_words else ""
        problem = EngineUnavailableError(f"s5cmd {how}, {DEATHS_IN_A_ROW} times in a row{words}")
        return [(transfer, problem) for transfer in [*lost, *self._take_queued()]]

    def _take_queued(self) -> list[Transfer]:
        queued = [*self._ready, *(transfer for _, _, transfer in self._delayed)]
        self._ready.clear()
        self._delayed.clear()
        return queued

    def _end(self) -> None:
        """Ends s5cmd, with patience unless aborted, and fails whatever is left."""
        with self._changed:
            self._aborted = self._aborted or not self._closing
            self._closing = True
            if self._child and not self._aborted:
                _close_stdin(self._child.process)
        if self._last_child:
            _join(self._last_child.readers, time.monotonic() + (0.0 if self._aborted else EXIT_SECONDS))
            self._last_child.kill()
            _join(self._last_child.readers, None)
        with self._changed:
            left = self._take_queued()
        _finish((transfer, _cancelled()) for transfer in left)


def _cancelled() -> GpusnapError:
    return CancelledError("the transfers were cancelled")


def _finish(finished: Iterable[tuple[Transfer, GpusnapError | None]]) -> None:
    for transfer, error in finished:
        transfer.finish(error)


def _join(threads: list[threading.Thread], deadline: float | None) -> None:
    for thread in threads:
        thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))


def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
    except OSError:
        pass  # it died with a command unread


def _reap(child: _Child) -> int:
    """Waits for a child that has closed its output and returns its status."""
    _close_stdin(child.process)
    try:
        return child.process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.process.wait()
