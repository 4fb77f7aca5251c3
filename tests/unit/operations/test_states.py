"""The table of states, pair by pair."""

from __future__ import annotations

import itertools

import pytest

from agent.events import OperationState as State
from agent.operations.states import follow

ALLOWED = {
    (State.PENDING, State.RUNNING),
    (State.PENDING, State.CANCELLING),
    (State.PENDING, State.FAILED),
    (State.RUNNING, State.CANCELLING),
    (State.RUNNING, State.SUCCEEDED),
    (State.RUNNING, State.FAILED),
    (State.CANCELLING, State.CANCELLED),
    (State.CANCELLING, State.SUCCEEDED),
    (State.CANCELLING, State.FAILED),
    (State.FAILED, State.PENDING),
}


@pytest.mark.parametrize(("present", "new"), list(itertools.product(State, State)))
def test_every_pair(present: State, new: State) -> None:
    if (present, new) in ALLOWED:
        assert follow(present, new) is new
    else:
        with pytest.raises(ValueError, match=f"{present.value} cannot become {new.value}"):
            follow(present, new)
