"""The time that requests are signed with."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from agent.storage.s3_clock import SigningClock

DAY = 86_400


def date(ahead: float) -> str:
    return formatdate(time.time() + ahead, usegmt=True)


def signed(ahead: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + ahead))


@pytest.mark.parametrize("ahead", [DAY, -DAY])
def test_a_refusal_tells_the_store_s_time(ahead: int) -> None:
    clock = SigningClock()
    assert clock.learn(date(ahead), signed(0))
    assert clock.now() == pytest.approx(time.time() + ahead, abs=30)
    # A request that was signed before that is worth another try as well.
    assert clock.learn(date(ahead), signed(0))
    assert not clock.learn(date(ahead), signed(ahead))


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23T18:00:00Z"])
def test_a_refusal_without_a_date_teaches_nothing(text: str) -> None:
    clock = SigningClock()
    assert not clock.learn(text, signed(0))
    assert clock.ahead == 0


def test_clocks_that_are_about_the_same_do_not_explain_a_refusal() -> None:
    clock = SigningClock()
    assert not clock.learn(date(20), signed(0))
    assert clock.ahead == 0
