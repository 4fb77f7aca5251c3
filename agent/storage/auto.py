"""The engine that finds out which engine is the faster: it begins with one, compares both, and keeps the winner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from agent.config.model import TransferConfig
from agent.errors import (
    EngineUnavailableError,
    GpusnapError,
    LocalIoError,
    LocalPermissionError,
    NoSpaceError,
    OutOfMemoryError,
)
from agent.events import Direction, Measurement
from agent.storage.auto_gate import Admission, Contender, Gate
from agent.storage.auto_objects import GatedIncoming, GatedOutgoing, GatedSource
from agent.storage.auto_sources import AutoSources
from agent.storage.choice import S5CMD, STREAM, Choice, EngineAccount, compared, other
from agent.storage.engine import Incoming, Outgoing, Share, TransferReport, WidenableEngine
from agent.storage.keys import check_key
from agent.storage.outgoing_file import OutgoingFile
from agent.storage.source import Source, SourceLostError
from agent.storage.spare import Outlook, Progress, SpareTime
from agent.storage.staging import cancelled
from agent.storage.trial import Trial

TRIAL_AFTER = 64 << 20
"""Bytes that are asked for before s5cmd is started as well: what is smaller is done before that has paid off."""

OWN_FAILURES = (EngineUnavailableError, OutOfMemoryError, NoSpaceError, LocalIoError, LocalPermissionError)
"""What goes wrong in an engine and not in the store, so that the other engine may still succeed."""

_T = TypeVar("_T")
_MakeEngine = Callable[[str, Share], WidenableEngine]


class AutoEngine:
    """Moves chunks with ``stream`` or ``s5cmd``.

    Without a choice it begins with ``stream``, which has nothing to start. Once there is enough to move, ``stream`` is
    what holds it up, and as much idle processor time is there as ``s5cmd`` takes more, that gets a part of it: each
    then has half of the connections and of the bytes on their way, and whichever is free gets the next object. The
    winner keeps all the rest and gets the loser's half. If an engine fails and the store does not, the other takes
    over, with what the failed one had not moved yet.

    Args:
        make: opens an engine by its name, with a part of what is configured; may raise EngineUnavailableError.
        transfer: what both together may use.
        direction: the direction that is compared; both directions work.
        choice: the engine to take, where that is known.

    Raises:
        EngineUnavailableError: neither engine works.
    """

    def __init__(
        self, make: _MakeEngine, transfer: TransferConfig, direction: Direction, choice: Choice | None = None
    ) -> None:
        self._make = make
        self._transfer = transfer
        self._direction = direction
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._gate = Gate(transfer.staging_size, self._submit_tidying)
        self._jobs = ThreadPoolExecutor(4, "auto-engine")
        self._idle = threading.Condition(self._lock)
        self._unfinished = 0
        self._requested = 0
        self._engines: list[WidenableEngine] = []
        self._failed: set[str] = set()
        self._spare = SpareTime()
        self._trial: Trial | None = None
        self._trial_time_ns = 0
        self._is_trial_asked = False
        self._ended = False
        if choice is None and transfer.connections < 2:
            choice = Choice(STREAM, "one connection is too few to compare engines")
        self._choice = choice
        self.sources = AutoSources(self._gate, self._upload_source)
        self._begin()

    def _begin(self) -> None:
        if self._choice is None:
            self._open(STREAM, Share.half(self._transfer))
            return
        engine = self._choice.engine
        try:
            self._open(engine, Share.whole(self._transfer))
        except EngineUnavailableError as error:
            self._failed.add(engine)
            self._choice = Choice(other(engine), _cannot(engine, error))
            self._open(other(engine), Share.whole(self._transfer))

    @property
    def name(self) -> str:
        """The engine that is taken; while that is open, the one that has moved the most."""
        return self._choice.engine if self._choice else self._gate.busiest()

    def account(self) -> EngineAccount:
        """Returns which engine moves the chunks, and why."""
        with self._lock:
            choice, trial = self._choice, self._trial
        if choice is None:
            return EngineAccount(self._gate.busiest(), self._why_open(trial is not None))
        speeds = trial.verdict.speeds if trial and trial.verdict else {}
        measured = [
            Measurement(engine, self._direction, speed, self._trial_time_ns) for engine, speed in speeds.items()
        ]
        return EngineAccount(choice.engine, choice.reason, tuple(measured))

    def _why_open(self, has_begun: bool) -> str:
        if has_begun:
            return "the operation ended before the engines could be compared"
        if self._spare.last is Outlook.BUSY:
            return "the processors had no time for s5cmd, which takes more of it than stream"
        return "too little to compare engines"

    def outgoing(self, size: int) -> Outgoing:
        """Returns room in the engine that has the least to do."""
        self._ask(Direction.UPLOAD, size)
        return self._admitted(size, lambda admission: GatedOutgoing(self._gate, admission, size))

    def upload(self, outgoing: Outgoing, key: str) -> Future[TransferReport]:
        """Uploads with the engine that has the room."""
        assert isinstance(outgoing, GatedOutgoing)
        future: Future[TransferReport] = Future()
        future.set_running_or_notify_cancel()
        self._count(1)
        self._upload(outgoing, key, future, is_last=False)
        return future

    def _upload_source(self, source: Source, key: str) -> Future[TransferReport]:
        """Uploads with ``stream`` what needs no room."""
        self._ask(Direction.UPLOAD, source.size)
        future: Future[TransferReport] = Future()
        future.set_running_or_notify_cancel()
        self._count(1)
        admission = self._gate.admit_source(STREAM)
        sources = None if admission is None else admission.contender.engine.sources
        if admission is None or sources is None:
            source.close()
            self._finish(future, SourceLostError(f"{STREAM} has just been given up"))
            return future
        in_trial = self._moves(admission, Direction.UPLOAD)

        def done(stored: Future[TransferReport]) -> None:
            error = stored.exception()
            self._moved(admission, 0 if error else stored.result().stored_bytes, in_trial)
            self._finish(future, error or stored.result())

        sources.upload(GatedSource(source, self._gate, admission), key).add_done_callback(done)
        return future

    def download(self, key: str, size: int) -> Future[Incoming]:
        """Fetches with the engine that has the least to do."""
        check_key(key)
        self._ask(Direction.DOWNLOAD, size)
        future: Future[Incoming] = Future()
        future.set_running_or_notify_cancel()
        self._count(1)
        try:
            self._admitted(size, lambda admission: self._download(admission, key, size, future, is_last=False))
        except BaseException:
            self._count(-1)
            raise
        return future

    def close(self) -> None:
        """Waits for what is running and ends both engines."""
        with self._idle:
            self._idle.wait_for(lambda: self._ended or not self._unfinished)
            self._ended = True
        self._jobs.shutdown()
        self._gate.abort()
        for engine in self._engines:
            engine.close()

    def abort(self) -> None:
        """Aborts both engines. Not to be called from a future's callback."""
        with self._idle:
            self._ended = True
            engines = list(self._engines)
            self._idle.notify_all()
        self._gate.abort()
        for engine in engines:
            engine.abort()
        self._jobs.shutdown()

    # What happens to one object.

    def _admitted(self, size: int, attempt: Callable[[Admission], _T]) -> _T:
        admission = self._gate.admit(size)
        try:
            return attempt(admission)
        except OWN_FAILURES as error:
            self._gate.give_back(admission)
            return self._elsewhere(admission.contender.name, error, size, attempt)
        except BaseException:
            self._gate.give_back(admission)
            raise

    def _elsewhere(self, failed: str, error: GpusnapError, size: int, attempt: Callable[[Admission], _T]) -> _T:
        """Lets the other engine do what one has failed at, and keeps it; raises ``error`` if that fails too."""
        try:
            admission = self._gate.admit_to(self._stand_in(other(failed)), size)
            try:
                result = attempt(admission)
            except BaseException:
                self._gate.give_back(admission)
                raise
        except OWN_FAILURES:
            raise error from None
        with self._lock:
            self._failed.add(failed)
            if self._choice is None or self._choice.engine == failed:
                self._choice = Choice(other(failed), _cannot(failed, error))
        self._apply_choice()
        return result

    def _download(self, admission: Admission, key: str, size: int, future: Future[Incoming], is_last: bool) -> None:
        in_trial = self._moves(admission, Direction.DOWNLOAD)
        try:
            inner = admission.contender.engine.download(key, size)
        except BaseException:
            self._moved(admission, 0, in_trial)
            raise

        def done(arrived: Future[Incoming]) -> None:
            error = arrived.exception()
            if error is None:
                incoming = arrived.result()
                self._moved(admission, incoming.report.stored_bytes, in_trial)
                self._finish(future, GatedIncoming(incoming, self._gate, admission))
                return
            self._moved(admission, 0, in_trial)
            self._gate.give_back(admission)
            if isinstance(error, OWN_FAILURES) and not is_last:
                self._rescue(
                    admission.contender.name,
                    error,
                    size,
                    lambda fresh: self._download(fresh, key, size, future, is_last=True),
                    future,
                )
            else:
                self._finish(future, error)

        inner.add_done_callback(done)

    def _upload(self, outgoing: GatedOutgoing, key: str, future: Future[TransferReport], is_last: bool) -> None:
        admission = outgoing.admission
        in_trial = self._moves(admission, Direction.UPLOAD)

        def done(stored: Future[TransferReport]) -> None:
            error = stored.exception()
            if isinstance(error, EngineUnavailableError) and isinstance(outgoing.inner, OutgoingFile) and not is_last:
                self._moved(admission, 0, in_trial)
                self._rescue(
                    admission.contender.name,
                    error,
                    outgoing.size,
                    lambda fresh: self._upload(outgoing.moved_to(fresh), key, future, is_last=True),
                    future,
                )
                return
            self._moved(admission, 0 if error else stored.result().stored_bytes, in_trial)
            outgoing.release()
            self._finish(future, error or stored.result())

        admission.contender.engine.upload(outgoing.inner, key).add_done_callback(done)

    def _rescue(
        self,
        failed: str,
        error: GpusnapError,
        size: int,
        attempt: Callable[[Admission], None],
        future: Future[_T],
    ) -> None:
        """Does it once more with the other engine, from a thread that may wait."""

        def work() -> None:
            try:
                self._elsewhere(failed, error, size, attempt)
            except BaseException as problem:  # carried to whoever waits
                self._finish(future, problem)

        if not self._submit(work):
            self._finish(future, cancelled())

    def _finish(self, future: Future[_T], outcome: _T | BaseException) -> None:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        self._count(-1)

    def _count(self, change: int) -> None:
        with self._idle:
            self._unfinished += change
            self._idle.notify_all()

    # Which engine gets it.

    def _ask(self, direction: Direction, size: int) -> None:
        """Counts what is asked for."""
        with self._lock:
            self._requested += size if direction is self._direction else 0
        self._consider_trial()

    def _consider_trial(self) -> None:
        """Begins the trial when there is enough to move, and processor time for it."""
        with self._lock:
            if self._requested <= TRIAL_AFTER or self._choice is not None or self._is_trial_asked:
                return
            outlook = self._spare.look(self._progress())
            self._is_trial_asked = outlook is Outlook.WORTH_A_TRIAL
            if outlook is Outlook.HELD_UP:
                self._choice = Choice(STREAM, "the network holds transfers up, so s5cmd could move no more")
        if outlook is Outlook.HELD_UP:
            self._apply_choice()
        elif outlook is Outlook.WORTH_A_TRIAL:
            self._submit(self._begin_trial)

    def _progress(self) -> Progress:
        stream = self._gate.get(STREAM)
        own = 0.0 if stream is None else stream.engine.processor_seconds
        return Progress(time.monotonic(), sum(self._moved_bytes().values()), own, self._gate.waits)

    def _begin_trial(self) -> None:
        try:
            with self._opening:
                if self._gate.get(S5CMD) is None:
                    self._open(S5CMD, Share.half(self._transfer), is_resting=True)
        except EngineUnavailableError as error:
            with self._lock:
                self._choice = self._choice or Choice(STREAM, _cannot(S5CMD, error))
            self._apply_choice()
            return
        with self._lock:
            if self._choice is not None:
                return
            self._trial = Trial(self._moved_bytes())
        self._gate.wake(S5CMD)

    def _moves(self, admission: Admission, direction: Direction) -> bool:
        """Notes that an object begins to move; returns whether it is part of the trial."""
        with self._lock:
            if self._trial is None or self._choice is not None or direction is not self._direction:
                return False
            self._trial.begin(admission.contender.name, time.monotonic(), self._moved_bytes())
            return True

    def _moved(self, admission: Admission, size: int, in_trial: bool) -> None:
        """Notes that an object has been moved; a size of 0 says that it could not be."""
        self._gate.moved(admission, size)
        self._consider_trial()
        with self._lock:
            if self._trial is None or not in_trial or self._choice is not None:
                return
            self._trial.end(admission.contender.name, time.monotonic(), self._moved_bytes())
            verdict = self._trial.verdict
            if verdict is None:
                return
            self._trial_time_ns = time.time_ns()
            if verdict.speeds:
                reason = f"measured in this operation, side by side: {compared(verdict.speeds, self._direction)}"
            else:
                reason = f"{other(verdict.winner)} moved next to nothing beside it"
            self._choice = Choice(verdict.winner, reason)
        self._apply_choice()

    def _moved_bytes(self) -> dict[str, int]:
        """Returns what each engine has moved; at least what is known to have arrived."""
        contenders = [self._gate.get(S5CMD), self._gate.get(STREAM)]
        return {each.name: max(each.engine.bytes_moved, each.moved) for each in contenders if each is not None}

    def _apply_choice(self) -> None:
        """Gives the loser nothing new; once it holds nothing any more, it ends and the winner gets its part."""
        assert self._choice is not None
        self._gate.wake(self._choice.engine)
        self._gate.rest(other(self._choice.engine))
        self._submit_tidying()

    def _submit_tidying(self) -> None:
        self._submit(self._tidy)

    def _tidy(self) -> None:
        with self._opening:
            choice = self._choice
            if choice is None:
                return
            loser = self._gate.remove_drained(other(choice.engine))
            if loser is not None:
                loser.engine.close()
                with self._lock:
                    self._engines.remove(loser.engine)
            winner = self._gate.get(choice.engine)
            if winner is not None and self._gate.get(other(choice.engine)) is None:
                winner.engine.widen(Share.whole(self._transfer))
                self._gate.widen(choice.engine)

    def _stand_in(self, engine: str) -> Contender:
        """Claims an engine, and opens it if it is not open."""
        with self._opening:
            if engine in self._failed:
                raise EngineUnavailableError(f"{engine} has failed before")
            if self._gate.get(engine) is None:
                self._open(engine, Share.whole(self._transfer), is_resting=True)
            return self._gate.claim(engine)

    def _open(self, name: str, share: Share, *, is_resting: bool = False) -> None:
        engine = self._make(name, share)
        with self._lock:
            if not self._ended:
                self._engines.append(engine)
                self._gate.add(engine, share.bytes, is_resting=is_resting)
                return
        engine.abort()
        raise cancelled()

    def _submit(self, work: Callable[[], None]) -> bool:
        """Runs ``work`` in a thread that may wait; says no when all has ended."""
        with self._lock:
            if self._ended:
                return False
            self._jobs.submit(work)
            return True


def _cannot(engine: str, error: GpusnapError) -> str:
    return f"{engine} cannot be used: {error.message}"
