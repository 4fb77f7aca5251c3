"""Connections that are lent while two engines share them: those of ``stream``, unless it has lost."""

from __future__ import annotations

from agent.events import Direction
from agent.storage.auto_contest import Contest
from agent.storage.auto_gate import Contender, Gate
from agent.storage.choice import STREAM
from agent.storage.engine import Loans
from agent.storage.loan import Arrival, Lent


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
        loans = None if stream is None else _loans_of(stream)
        return loans is not None and loans.are_given

    def lend(self, key: str, size: int) -> Lent | None:
        """Lends a connection as ``stream`` does."""
        admission = self._gate.admit_source(STREAM)
        if admission is None:
            return None
        inner = None
        try:
            loans = _loans_of(admission.contender)
            inner = None if loans is None else loans.lend(key, size)
        finally:
            if inner is None:
                self._gate.give_back(admission)
        if inner is None:
            return None
        self._contest.ask(Direction.DOWNLOAD, size)
        in_trial = self._contest.begins(admission, Direction.DOWNLOAD)

        def end(arrival: Arrival | None) -> None:
            inner.give_back(arrival)
            self._contest.ends(admission, 0 if arrival is None else size, in_trial)
            self._gate.give_back(admission)

        return Lent(inner.loan, end)


def _loans_of(stream: Contender) -> Loans | None:
    return None if stream.is_resting else stream.engine.loans
