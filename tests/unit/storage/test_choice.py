"""Which engine measurements speak for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.events import Direction, Measurement
from agent.storage.choice import MARGIN, choose, compared, other, preferred

UP, DOWN = Direction.UPLOAD, Direction.DOWNLOAD
SPEEDS = st.floats(1e3, 1e10)


@given(SPEEDS, SPEEDS)
def test_s5cmd_is_taken_only_if_it_is_clearly_faster(s5cmd: float, stream: float) -> None:
    taken = preferred({"s5cmd": s5cmd, "stream": stream})
    assert taken == ("s5cmd" if s5cmd / stream > MARGIN else "stream")


@pytest.mark.parametrize(
    "measured",
    [
        [],
        [Measurement("s5cmd", DOWN, 1e8, 1)],
        [Measurement("stream", DOWN, 1e8, 1)],
        [Measurement("s5cmd", DOWN, 1e8, 1), Measurement("stream", UP, 1e8, 1)],
    ],
)
def test_nothing_is_taken_before_both_were_measured(measured: Sequence[Measurement]) -> None:
    assert choose(measured, DOWN) is None


def test_the_choice_is_explained_with_both_figures() -> None:
    choice = choose([Measurement("stream", UP, 5.2e6, 1), Measurement("s5cmd", UP, 1.2345e9, 1)], UP)
    assert choice is not None
    assert choice.engine == "s5cmd"
    assert choice.reason == "measured here before: upload at 1,234 MB/s, stream at 5.2 MB/s"
    assert "costs less processor time" in compared({"s5cmd": 1.05e9, "stream": 1e9}, UP)
    assert "costs less" not in compared({"s5cmd": 1e9, "stream": 2e9}, UP)


def test_each_engine_is_the_others_stand_in() -> None:
    assert (other("s5cmd"), other("stream")) == ("stream", "s5cmd")
