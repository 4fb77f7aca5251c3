"""A thread that does something slow while its owner goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from agent.pipeline.behind import MOST_STEPS, Behind
from tests.support.processes import wait_until

NAME = "behind-test"


class BrokenError(Exception):
    """What goes wrong here."""


def broken() -> None:
    raise BrokenError


def nothing() -> None:
    pass


@pytest.fixture
def behind() -> Iterator[Behind]:
    made = Behind(NAME)
    yield made
    made.close()
    assert not any(thread.name.startswith(NAME) for thread in threading.enumerate())


def test_the_owner_goes_on_meanwhile(behind: Behind) -> None:
    owner_is_here, done = threading.Event(), threading.Event()

    def work() -> None:
        assert owner_is_here.wait(30)
        done.set()

    behind.do(work)
    owner_is_here.set()
    behind.finish()
    assert done.is_set()


def test_one_thing_is_done_at_a_time_and_in_order(behind: Behind) -> None:
    order: list[int] = []
    busy = threading.Lock()

    def work(number: int) -> None:
        assert busy.acquire(blocking=False)
        order.append(number)
        busy.release()

    for number in range(100):
        behind.do(lambda number=number: work(number))  # type: ignore[misc]
        assert len(order) >= number
    behind.finish()
    assert order == list(range(100))


@pytest.mark.parametrize("how", ["do", "finish"])
def test_what_goes_wrong_is_told_once_and_with_the_next(behind: Behind, how: str) -> None:
    started: list[int] = []
    behind.do(broken)
    go_on = behind.finish if how == "finish" else lambda: behind.do(lambda: started.append(1))
    with pytest.raises(BrokenError):
        go_on()
    behind.finish()
    assert started == []
    behind.do(lambda: started.append(2))
    behind.finish()
    assert started == [2]


def test_it_settles_whatever_goes_wrong(behind: Behind) -> None:
    behind.settle()
    behind.do(broken)
    behind.settle()
    behind.finish()
    ended = threading.Event()

    def end_late() -> None:
        threading.Event().wait(0.1)
        ended.set()

    behind.do(end_late)
    behind.settle()
    assert ended.is_set()


def test_a_step_is_taken_once_what_was_begun_before_is_done(behind: Behind) -> None:
    taken: list[str] = []
    is_free, owner = threading.Event(), threading.get_ident()

    def work() -> None:
        assert is_free.wait(30)
        taken.append("work")

    def step(is_well: bool) -> None:
        assert threading.get_ident() == owner
        taken.append(f"step {is_well}")

    behind.then(step)
    assert taken == ["step True"], "nothing was begun"
    behind.do(work)
    behind.then(step)
    assert taken == ["step True"]
    is_free.set()
    behind.finish()
    assert taken == ["step True", "work", "step True"]
    behind.do(nothing)
    behind.then(step)
    wait_until(lambda: behind.then(lambda _: None) or len(taken) == 4, "a later call to take it")  # type: ignore[func-returns-value]


def test_after_what_went_wrong_a_step_cleans_up(behind: Behind) -> None:
    taken: list[bool] = []
    is_free = threading.Event()

    def fail() -> None:
        assert is_free.wait(30)
        raise BrokenError

    behind.do(fail)
    behind.then(taken.append)
    is_free.set()
    with pytest.raises(BrokenError):
        behind.finish()
    assert taken == []
    behind.settle()
    assert taken == [False]
    behind.settle()
    assert taken == [False]


def test_a_step_may_begin_with_more(behind: Behind) -> None:
    taken: list[str] = []

    def step(is_well: bool) -> None:
        behind.do(lambda: taken.append("more"))
        behind.then(lambda is_well: taken.append(f"then {is_well}"))

    behind.do(nothing)
    behind.then(step)
    behind.finish()
    assert taken == ["more", "then True"]


def test_only_so_many_steps_wait(behind: Behind) -> None:
    taken: list[bool] = []
    is_free = threading.Event()
    behind.do(lambda: None if is_free.wait(30) else pytest.fail("never free"))
    for _ in range(MOST_STEPS):
        behind.then(taken.append)
    assert taken == []
    threading.Timer(0.05, is_free.set).start()
    behind.then(taken.append)
    assert taken == [True] * (MOST_STEPS + 1), "it has waited"


def test_there_is_no_thread_before_there_is_work(behind: Behind) -> None:
    assert not any(thread.name.startswith(NAME) for thread in threading.enumerate())
    behind.do(nothing)
    wait_until(lambda: any(thread.name.startswith(NAME) for thread in threading.enumerate()), "it works")
