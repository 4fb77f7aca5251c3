"""Connections that are lent while two engines share them: those of ``stream``, unless it has lost."""

from __future__ import annotations

from collections.abc import Callable

from agent.events import Direction
from agent.storage.auto_contest import Contest
from agent.storage.auto_gate import Contender, Gate
from agent.storage.choice import STREAM
from agent.storage.engine import Lent
from agent.storage.loan import Arrival


class AutoLoans:
    """Lends connections of ``stream``, which stays for as long.

    Args:
        gate: where it takes part.
        contest: takes what comes over them for what ``stream`` moves.
    """

    def __init__(self, gate: Gate, contest: Contest) -> None:
        self._gate = gate
        self._contest = contest

    @property
    def are_given(self) -> bool:
        """Whether ``stream`` takes part and lends connections."""
        stream = self._gate.get(STREAM)
        return stream is not None and _lends(stream)

    def lend(self, key: str, size: int) -> Lent | None:
        """Lends a connection as ``stream`` does."""
        self._contest.ask(Direction.DOWNLOAD, size)
        admission = self._gate.admit_source(STREAM)
        if admission is None:
            return None
        stream = admission.contender
        lent = None
        try:
            if stream.engine.loans is not None and _lends(stream):
                lent = stream.engine.loans.lend(key, size)
        finally:
            if lent is None:
                self._gate.give_back(admission)
        if lent is None:
            return None
        in_trial = self._contest.begins(admission, Direction.DOWNLOAD)

        def end(arrival: Arrival | None) -> None:
            self._contest.ends(admission, 0 if arrival is None else size, in_trial)
            self._gate.give_back(admission)

        return GatedLent(lent, end)


class GatedLent:
    """A lent connection whose engine stays until it is given back.

    Args:
        inner: what the engine has lent.
        end: called once, after it was given back.
    """

    def __init__(self, inner: Lent, end: Callable[[Arrival | None], None]) -> None:
        self.loan = inner.loan
        self._inner = inner
        self._end: Callable[[Arrival | None], None] | None = end

    def give_back(self, arrival: Arrival | None = None) -> None:
        """Ends the loan, and the stay of its engine."""
        self._inner.give_back(arrival)
        end, self._end = self._end, None
        if end is not None:
            end(arrival)


def _lends(stream: Contender) -> bool:
    return not stream.is_resting and stream.engine.loans is not None and stream.engine.loans.are_given
