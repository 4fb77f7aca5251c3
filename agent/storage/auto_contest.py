"""Which of two engines gets the chunks: open at first, and decided by what holds them up and what both have moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agent.events import Direction, Measurement
from agent.storage.auto_gate import Admission, Gate
from agent.storage.choice import S5CMD, STREAM, Choice, EngineAccount, compared, other
from agent.storage.spare import Outlook, Progress, SpareTime
from agent.storage.trial import Trial

TRIAL_AFTER = 64 << 20
"""Bytes that are asked for before s5cmd is started as well: what is smaller is done before that has paid off."""

NOT_HELD_UP_BY_STREAM = "transfers wait for the network or the disk, and not for stream: s5cmd could move no more"
"""The reason to take stream without a trial."""


class Contest:
    """Finds a choice while objects move, unless there is one already. For any thread.

    Args:
        gate: where both engines take part; asked for what they have moved.
        direction: the direction that is compared.
        choice: the engine to take, where that is known.
        on_worth_a_trial: called once, when s5cmd might be the faster; must not block.
        on_chosen: called when a choice was found; must not block.
    """

    def __init__(
        self,
        gate: Gate,
        direction: Direction,
        choice: Choice | None,
        on_worth_a_trial: Callable[[], object],
        on_chosen: Callable[[], object],
    ) -> None:
        self._gate = gate
        self._direction = direction
        self._choice = choice
        self._on_worth_a_trial = on_worth_a_trial
        self._on_chosen = on_chosen
        self._lock = threading.Lock()
        self._requested = 0
        self._spare = SpareTime()
        self._trial: Trial | None = None
        self._trial_time_ns = 0
        self._is_trial_asked = False

    @property
    def choice(self) -> Choice | None:
        """The engine that is taken, once that is decided."""
        return self._choice

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

    def choose(self, choice: Choice, *, instead_of: str = "") -> None:
        """Takes an engine if none was taken yet, or the other one was, which is named."""
        with self._lock:
            if self._choice is None or self._choice.engine == instead_of:
                self._choice = choice
        self._on_chosen()

    def ask(self, direction: Direction, size: int) -> None:
        """Counts what is asked for."""
        with self._lock:
            self._requested += size if direction is self._direction else 0
        self._consider_trial()

    def begin_trial(self) -> None:
        """Compares the engines from now on, both of which take part in the gate."""
        with self._lock:
            if self._choice is not None:
                return
            self._trial = Trial(self._moved_bytes())
        self._gate.wake(S5CMD)

    def begins(self, admission: Admission, direction: Direction) -> bool:
        """Notes that an object begins to move; returns whether it is part of the trial."""
        with self._lock:
            if self._trial is None or self._choice is not None or direction is not self._direction:
                return False
            self._trial.begin(admission.contender.name, time.monotonic(), self._moved_bytes())
            return True

    def ends(self, admission: Admission, size: int, in_trial: bool) -> None:
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
        self._on_chosen()

    def _consider_trial(self) -> None:
        """Asks for a trial when there is enough to move and it may be worth it; takes stream if it cannot be."""
        with self._lock:
            if self._requested <= TRIAL_AFTER or self._choice is not None or self._is_trial_asked:
                return
            outlook = self._spare.look(self._progress())
            self._is_trial_asked = outlook is Outlook.WORTH_A_TRIAL
            if outlook is Outlook.HELD_UP:
                self._choice = Choice(STREAM, NOT_HELD_UP_BY_STREAM)
        if outlook is Outlook.HELD_UP:
            self._on_chosen()
        elif outlook is Outlook.WORTH_A_TRIAL:
            self._on_worth_a_trial()

    def _progress(self) -> Progress:
        stream = self._gate.get(STREAM)
        own = 0.0 if stream is None else stream.engine.processor_seconds
        return Progress(time.monotonic(), sum(self._moved_bytes().values()), own, self._gate.waits)

    def _moved_bytes(self) -> dict[str, int]:
        """Returns what each engine has moved; at least what is known to have arrived."""
        contenders = [self._gate.get(S5CMD), self._gate.get(STREAM)]
        return {each.name: max(each.engine.bytes_moved, each.moved) for each in contenders if each is not None}

    def _why_open(self, has_begun: bool) -> str:
        if has_begun:
            return "the operation ended before the engines could be compared"
        if self._spare.last is Outlook.BUSY:
            return "the processors had no time for s5cmd, which takes more of it than stream"
        if self._requested > TRIAL_AFTER:
            return "the operation ended before it was clear that s5cmd could move more"
        return "too little to compare engines"
