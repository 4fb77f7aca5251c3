"""The engine that finds out which engine is the faster: it begins with one, compares both, and keeps the winner."""

from __future__ import annotations

import threading
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
from agent.events import Direction
from agent.storage.auto_contest import Contest
from agent.storage.auto_gate import Admission, Contender, Gate
from agent.storage.auto_loans import AutoLoans
from agent.storage.auto_objects import GatedIncoming, GatedOutgoing, GatedSource
from agent.storage.auto_sources import AutoSources
from agent.storage.choice import S5CMD, STREAM, Choice, EngineAccount, other
from agent.storage.engine import Incoming, Outgoing, Share, TransferReport, WidenableEngine
from agent.storage.keys import check_key
from agent.storage.outgoing_file import OutgoingFile
from agent.storage.source import Source, SourceLostError
from agent.storage.staging import cancelled

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
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._applying = threading.Lock()
        self._gate = Gate(transfer.staging_size, self._submit_tidying)
        self._jobs = ThreadPoolExecutor(4, "auto-engine")
        self._idle = threading.Condition(self._lock)
        self._unfinished = 0
        self._engines: list[WidenableEngine] = []
        self._failed: set[str] = set()
        self._ended = False
        if choice is None and transfer.connections < 2:
            choice = Choice(STREAM, "one connection is too few to compare engines")
        choice = self._begin(choice)
        self._contest = Contest(
            self._gate, direction, choice, lambda: self._submit(self._begin_trial), self._apply_choice
        )
        self.loans = AutoLoans(self._gate, self._contest)
        self.sources = AutoSources(self._gate, self._upload_source)

    def _begin(self, choice: Choice | None) -> Choice | None:
        """Opens the first engine; returns the choice, which is the other engine if that one cannot be used."""
        if choice is None:
            self._open(STREAM, Share.half(self._transfer))
            return None
        engine = choice.engine
        try:
            self._open(engine, Share.whole(self._transfer))
        except EngineUnavailableError as error:
            self._failed.add(engine)
            self._open(other(engine), Share.whole(self._transfer))
            return Choice(other(engine), _cannot(engine, error))
        return choice

    @property
    def name(self) -> str:
        """The engine that is taken; while that is open, the one that has moved the most."""
        choice = self._contest.choice
        return choice.engine if choice else self._gate.busiest()

    def account(self) -> EngineAccount:
        """Returns which engine moves the chunks, and why."""
        return self._contest.account()

    def outgoing(self, size: int) -> Outgoing:
        """Returns room in the engine that has the least to do."""
        self._contest.ask(Direction.UPLOAD, size)
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
        self._contest.ask(Direction.UPLOAD, source.size)
        future: Future[TransferReport] = Future()
        future.set_running_or_notify_cancel()
        self._count(1)
        admission = self._gate.admit_source(STREAM)
        sources = None if admission is None else admission.contender.engine.sources
        if admission is None or sources is None:
            source.close()
            self._finish(future, SourceLostError(f"{STREAM} has just been given up"))
            return future
        in_trial = self._contest.begins(admission, Direction.UPLOAD)

        def done(stored: Future[TransferReport]) -> None:
            error = stored.exception()
            self._contest.ends(admission, 0 if error else stored.result().stored_bytes, in_trial)
            self._finish(future, error or stored.result())

        sources.upload(GatedSource(source, self._gate, admission), key).add_done_callback(done)
        return future

    def download(self, key: str, size: int) -> Future[Incoming]:
        """Fetches with the engine that has the least to do."""
        check_key(key)
        self._contest.ask(Direction.DOWNLOAD, size)
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
        self._contest.choose(Choice(other(failed), _cannot(failed, error)), instead_of=failed)
        return result

    def _download(self, admission: Admission, key: str, size: int, future: Future[Incoming], is_last: bool) -> None:
        in_trial = self._contest.begins(admission, Direction.DOWNLOAD)
        try:
            inner = admission.contender.engine.download(key, size)
        except BaseException:
            self._contest.ends(admission, 0, in_trial)
            raise

        def done(arrived: Future[Incoming]) -> None:
            error = arrived.exception()
            if error is None:
                incoming = arrived.result()
                self._contest.ends(admission, incoming.report.stored_bytes, in_trial)
                self._finish(future, GatedIncoming(incoming, self._gate, admission))
                return
            self._contest.ends(admission, 0, in_trial)
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
        in_trial = self._contest.begins(admission, Direction.UPLOAD)

        def done(stored: Future[TransferReport]) -> None:
            error = stored.exception()
            if isinstance(error, EngineUnavailableError) and isinstance(outgoing.inner, OutgoingFile) and not is_last:
                self._contest.ends(admission, 0, in_trial)
                self._rescue(
                    admission.contender.name,
                    error,
                    outgoing.size,
                    lambda fresh: self._upload(outgoing.moved_to(fresh), key, future, is_last=True),
                    future,
                )
                return
            self._contest.ends(admission, 0 if error else stored.result().stored_bytes, in_trial)
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

    def _begin_trial(self) -> None:
        try:
            with self._opening:
                if self._gate.get(S5CMD) is None:
                    self._open(S5CMD, Share.half(self._transfer), is_resting=True)
        except EngineUnavailableError as error:
            self._contest.choose(Choice(STREAM, _cannot(S5CMD, error)))
            return
        self._contest.begin_trial()

    def _apply_choice(self) -> None:
        """Gives the loser nothing new; once it holds nothing any more, it ends and the winner gets its part."""
        # One after the other, so that what was chosen last is what holds.
        with self._applying:
            choice = self._contest.choice
            assert choice is not None
            self._gate.wake(choice.engine)
            self._gate.rest(other(choice.engine))
        self._submit_tidying()

    def _submit_tidying(self) -> None:
        self._submit(self._tidy)

    def _tidy(self) -> None:
        with self._opening:
            choice = self._contest.choice
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
