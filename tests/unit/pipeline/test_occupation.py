"""Time of threads by cause. Real threads; the sums are compared, never with a clock."""

from __future__ import annotations

import hashlib
import threading

from agent.events import Cause
from agent.pipeline.occupation import Occupations


def test_a_thread_that_computes_is_held_back_by_the_processor() -> None:
    occupations = Occupations()
    with occupations.thread():
        hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)
    assert occupations.totals()[0].cause is Cause.PROCESSOR


def test_waiting_counts_for_what_is_waited_for() -> None:
    occupations = Occupations()
    with occupations.thread(), occupations.waiting(Cause.STORE):
        threading.Event().wait(0.2)
    totals = occupations.totals()
    assert totals[0].cause is Cause.STORE
    assert totals[0].seconds >= 0.2


def test_what_is_left_is_the_disk() -> None:
    occupations = Occupations()
    with occupations.thread():
        threading.Event().wait(0.2)
    assert occupations.totals()[0].cause is Cause.DISK


def test_a_thread_that_is_not_registered_counts_nothing() -> None:
    occupations = Occupations()
    with occupations.waiting(Cause.SCAN):
        pass
    assert occupations.totals() == ()


def test_the_largest_comes_first() -> None:
    occupations = Occupations()
    occupations.add(Cause.DISK, 1.0)
    occupations.add(Cause.SCAN, 2.0)
    occupations.add(Cause.DISK, 0.5)
    assert [(item.cause, item.seconds) for item in occupations.totals()] == [(Cause.SCAN, 2.0), (Cause.DISK, 1.5)]
