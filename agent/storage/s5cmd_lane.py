"""One long-lived s5cmd for one direction: commands go in, every transfer's end comes out exactly once."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from agent.errors import EngineUnavailableError, GpusnapError
from agent.storage.failure import Failure, FailureKind, to_error
from agent.storage.retry import RetryPolicy
from agent.storage.s5cmd_child import EXIT_SECONDS, Child
from agent.storage.s5cmd_lines import Answer, parse_line
from agent.storage.staging import cancelled

PIPE_BYTES = 32 << 10
"""Unanswered command bytes at most: half of what a pipe holds, so that writing never blocks."""

DEATHS_IN_A_ROW = 4
"""Ends of s5cmd without a single answer between them after which it is given up."""

ATTEMPTS_AMONG_PROGRESS = 20
"""How often one object is tried while others get through."""

STALL_SHARE = 0.5
"""The part of the time for retries after which an s5cmd that moves nothing is killed: the rest is for another try."""

TICK_SECONDS = 1.0
"""How often progress is looked at."""

CLOCK_REFUSED = "RequestTimeTooSkewed"
CLOCK_HINT = "set this machine's clock; the engine stream asks the store for the time"
"""s5cmd signs with this machine's clock only, so that its failure is none of the store's."""

PROGRESS_BYTES = 64 << 10
"""Bytes written by s5cmd that count as progress: more than the requests of a few retries."""


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
        connections: how many it uses at once.
    """

    path: str
    line: bytes
    location: str
    key: str
    done: Callable[[float, int, GpusnapError | None], None]
    clean: Callable[[], None] = _nothing
    connections: int = 1
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


_Finished = list[tuple[Transfer, GpusnapError | None]]


class Lane:
    """Feeds one s5cmd, restarts it when it dies, kills it when it stalls, and tries again what failed for a while.

    Args:
        name: for the names of its threads.
        arguments: the program and its arguments.
        environment: its environment.
        connections: connections that the commands it works on use at once, all together.
        policy: how long an object is tried.
        stall_bytes: bytes that may pass while one object gets no answer; more means that it is stuck.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        connections: int,
        policy: RetryPolicy,
        stall_bytes: int,
    ) -> None:
        self._name = name
        self._arguments = arguments
        self._environment = environment
        self._connections = connections
        self._policy = policy
        self._stall_bytes = stall_bytes
        self._changed = threading.Condition(threading.Lock())
        self._ready: deque[Transfer] = deque()
        self._delayed: list[tuple[float, int, Transfer]] = []
        self._order = itertools.count()
        self._sent: dict[str, Transfer] = {}
        self._child: Child | None = None
        self._last_child: Child | None = None
        self._deaths = 0
        self._last_words = ""
        self._stalled = False
        self._moved = 0
        self._moved_before = 0
        self._progress = time.monotonic()
        self._closing = False
        self._aborted = False
        self._driver = threading.Thread(target=self._drive, name=f"{name}-driver", daemon=True)
        self._driver.start()

    @property
    def bytes_moved(self) -> int:
        """Bytes that it has written to sockets and files, as far as the kernel tells."""
        with self._changed:
            written = self._child.bytes_written() if self._child else None
            return self._moved_before + max(written or 0, self._moved)

    def submit(self, transfer: Transfer) -> None:
        """Queues a transfer; its ``done`` is called later, from another thread."""
        with self._changed:
            if not self._closing and not self._aborted:
                self._ready.append(transfer)
                self._changed.notify_all()
                return
        transfer.finish(cancelled())

    def widen(self, connections: int) -> None:
        """Allows more connections at once from now on."""
        with self._changed:
            self._connections = max(self._connections, connections)
            self._changed.notify_all()

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
        if self._child and self._child.ending:
            return False  # it is dying; its last answers are still being read
        unanswered = sum(len(sent.line) for sent in self._sent.values())
        used = sum(sent.connections for sent in self._sent.values())
        return not self._sent or (
            used + transfer.connections <= self._connections and unanswered + len(transfer.line) <= PIPE_BYTES
        )

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
        transfer.sent_moved = self._moved
        self._sent[transfer.token] = transfer
        try:
            child.send(transfer.line)
        except OSError:
            pass  # it died: its readers see that, and what was sent is tried again
        return []

    def _start(self) -> Child:
        self._stalled = False
        self._moved_before += self._moved
        self._moved = 0
        self._child = Child(self._name, self._arguments, self._environment, self._heard, self._died)
        self._last_child = self._child
        return self._child

    def _heard(self, line: bytes) -> None:
        answer = parse_line(line)
        if isinstance(answer, Answer):
            self._answered(answer)
        elif answer.text:
            self._last_words = answer.text

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
        if failure.code == CLOCK_REFUSED:
            return [(transfer, EngineUnavailableError(f"s5cmd: {failure.text}", hint=CLOCK_HINT))]
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
        if child is None or not self._sent or self._stalled:
            return
        moved = child.bytes_written() or 0
        if moved - self._moved >= PROGRESS_BYTES:
            self._moved = moved
            self._progress = now
        still = now - max(self._progress, max(sent.sent for sent in self._sent.values()))
        left_behind = any(self._moved - sent.sent_moved > self._stall_bytes for sent in self._sent.values())
        if still > STALL_SHARE * self._policy.seconds or left_behind:
            self._stalled = True
            child.kill()

    def _died(self, status: int) -> None:
        with self._changed:
            lost = list(self._sent.values())
        for transfer in lost:
            transfer.clean()
        with self._changed:
            self._sent.clear()
            self._child = None
            finished = self._recover(lost, status)
            self._changed.notify_all()
        _finish(finished)

    def _recover(self, lost: list[Transfer], status: int) -> _Finished:
        if self._aborted:
            return [(transfer, cancelled()) for transfer in lost]
        if self._stalled:
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
        words = f"; its last words: {self._last_words}" if self._last_words else ""
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
                self._child.end_input()
        if self._last_child:
            self._last_child.join(0.0 if self._aborted else EXIT_SECONDS)
        with self._changed:
            left = self._take_queued()
        _finish((transfer, cancelled()) for transfer in left)


def _finish(finished: Iterable[tuple[Transfer, GpusnapError | None]]) -> None:
    for transfer, error in finished:
        transfer.finish(error)
