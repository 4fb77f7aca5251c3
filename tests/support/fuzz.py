"""Runs a test with very many drawn cases, and counts them."""

from __future__ import annotations

import collections
import functools
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, given, settings

FACTOR = float(os.environ.get("GPUSNAP_FUZZ", "1"))
"""How many times as many cases as usual are drawn: 10 for a longer run."""

CASE_SECONDS = 30
"""A case that takes longer hangs, and fails."""

tried: collections.Counter[str] = collections.Counter()
"""Cases so far, by the name of the test's function."""


def fuzz(cases: int, *, each: int = 1, **drawn: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a test that is called with ``cases`` drawn values of each argument.

    Args:
        cases: how many in a usual run; ``FACTOR`` multiplies it.
        each: cases that the test itself makes of one drawn one.
        drawn: a strategy for each drawn argument.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counted(*arguments: Any, **named: Any) -> None:
            tried[test.__name__] += each
            before = signal.signal(signal.SIGALRM, _hangs)
            signal.alarm(CASE_SECONDS)
            try:
                test(*arguments, **named)
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, before)

        limits = settings(
            max_examples=max(round(cases * FACTOR), 1),
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.function_scoped_fixture,
            ],
        )
        decorated: Callable[..., None] = limits(given(**drawn)(counted))
        return decorated

    return decorate


def _hangs(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"the case took longer than {CASE_SECONDS} s")
