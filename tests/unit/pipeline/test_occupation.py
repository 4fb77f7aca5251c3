"""Time of workers by cause. Real work; the sums are compared, never with a clock."""

from __future__ import annotations

import hashlib
import threading
import time

from agent.events import Cause, Occupation
from agent.pipeline.occupation import Occupations, processor_seconds


def test_computing_is_time_on_the_processor() -> None:
    begun, on_processor = time.monotonic(), processor_seconds()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)
    seconds, on_processor = time.monotonic() - begun, processor_seconds() - on_processor
    occupations = Occupations()
    occupations.worked(seconds, on_processor)
    assert occupations.totals()[0].cause is Cause.PROCESSOR


def test_waiting_is_not() -> None:
    begun, on_processor = time.monotonic(), processor_seconds()
    threading.Event().wait(0.2)
    occupations = Occupations()
    occupations.worked(time.monotonic() - begun, processor_seconds() - on_processor)
    assert occupations.totals()[0].cause is Cause.DISK


def test_the_largest_comes_first_and_what_is_nothing_not_at_all() -> None:
    occupations = Occupations()
    occupations.worked(3.0, 1.0)
    occupations.add(Cause.STORE, 1.5)
    # A clock that counts more than there was.
    occupations.worked(1.0, 1.25)
    assert occupations.totals() == (
        Occupation(Cause.PROCESSOR, 2.25),
        Occupation(Cause.DISK, 2.0),
        Occupation(Cause.STORE, 1.5),
    )
