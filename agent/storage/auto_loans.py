"""Connections that are lent while two engines share them: those of ``stream``, unless it has lost."""

from __future__ import annotations

from agent.storage.auto_gate import Admission, Contender, Gate
from agent.storage.choice import STREAM
from agent.storage.engine import Lent
from agent.storage.loan import Arrival


class AutoLoans:
    """Lends connections of ``stream``, which stays for as long.

    Args:
        gate: where it takes part.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    @property
    def are_given(self) -> bool:
        """Whether ``stream`` takes part and lends connections."""
        stream = self._gate.get(STREAM)
        return stream is not None and _lends(stream)

    def lend(self, key: str, size: int) -> Lent | None:
        """Lends a connection as ``stream`` does."""
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
        return None if lent is None else GatedLent(lent, size, self._gate, admission)


class GatedLent:
    """A lent connection whose engine stays until it is given back."""

    def __init__(self, inner: Lent, size: int, gate: Gate, admission: Admission) -> None:
        self.loan = inner.loan
        self._inner = inner
        self._size = size
        self._gate = gate
        self._admission = admission

    def give_back(self, arrival: Arrival | None = None) -> None:
        """Ends the loan, and the admission."""
        self._inner.give_back(arrival)
        if arrival is not None:
            self._gate.moved(self._admission, self._size)
        self._gate.give_back(self._admission)


def _lends(stream: Contender) -> bool:
    return not stream.is_resting and stream.engine.loans is not None and stream.engine.loans.are_given
