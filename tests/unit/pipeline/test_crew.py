"""Threads of one operation stop together: the first error wins, and whatever waits wakes up."""

# ruff: noqa: PT012 - the life of a crew is a block

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from agent.errors import CancelledError, LocalIoError, NoSpaceError
from agent.pipeline.crew import Allowance, Channel, Crew
from agent.pipeline.local_errors import local_errors
from tests.support.processes import wait_until


def wait_for_stop(crew: Crew) -> None:
    wait_until(lambda: crew.stopping, "the crew stops")


def test_work_that_goes_well() -> None:
    crew = Crew(threading.Event())
    done: list[int] = []
    with crew.work():
        for number in range(4):
            crew.start(f"t{number}", lambda: done.append(1))
        crew.join()
    assert len(done) == 4
    assert not crew.stopping


def test_the_first_error_wins() -> None:
    crew = Crew(threading.Event())

    def first() -> None:
        raise NoSpaceError("first")

    def second() -> None:
        wait_for_stop(crew)
        raise LocalIoError("second")

    with pytest.raises(NoSpaceError, match="first"), crew.work():
        crew.start("second", second)
        crew.start("first", first)
        crew.join()


def test_an_error_of_the_block_stops_the_threads() -> None:
    crew = Crew(threading.Event())
    ended = threading.Event()

    def work() -> None:
        wait_for_stop(crew)
        ended.set()

    with pytest.raises(LocalIoError), crew.work():
        crew.start("work", work)
        raise LocalIoError("block")
    assert ended.is_set()


def test_an_error_of_a_thread_is_translated_around_the_work() -> None:
    crew = Crew(threading.Event())

    def work() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(NoSpaceError), local_errors("it failed"), crew.work():
        crew.start("work", work)
        crew.join()


def put_forever(crew: Crew) -> None:
    channel: Channel[int] = Channel(crew, 1)
    while True:
        channel.put(1)


def get_forever(crew: Crew) -> None:
    Channel[int](crew, 1).get()


def take_forever(crew: Crew) -> None:
    allowance = Allowance(crew, 1)
    while True:
        allowance.take(1)


def wait_forever(crew: Crew) -> None:
    allowance = Allowance(crew, 1)
    allowance.take(1)
    allowance.wait_empty()


def check_forever(crew: Crew) -> None:
    while True:
        crew.check()


@pytest.mark.parametrize("wait", [put_forever, get_forever, take_forever, wait_forever, check_forever])
@pytest.mark.parametrize("how", ["cancel", "error"])
def test_everything_that_waits_wakes_up(wait: Callable[[Crew], None], how: str) -> None:
    cancel = threading.Event()
    stopped = threading.Event()
    crew = Crew(cancel, on_stop=stopped.set)
    waiting = threading.Event()

    def work() -> None:
        waiting.set()
        wait(crew)

    expected = CancelledError if how == "cancel" else LocalIoError
    with pytest.raises(expected), crew.work():
        crew.start("wait", work)
        assert waiting.wait(10)
        if how == "cancel":
            cancel.set()
        else:
            crew.fail(LocalIoError("stop"))
        crew.join()
    assert crew.stopping


def test_on_stop_unblocks_what_the_crew_does_not_know() -> None:
    cancel = threading.Event()
    elsewhere = threading.Event()
    calls: list[int] = []

    def on_stop() -> None:
        calls.append(threading.get_ident())
        elsewhere.set()

    crew = Crew(cancel, on_stop)
    thread: list[int] = []

    def work() -> None:
        thread.append(threading.get_ident())
        crew.fail(LocalIoError("stop"))
        crew.fail(LocalIoError("again"))
        assert elsewhere.wait(10)

    with pytest.raises(LocalIoError, match="stop"), crew.work():
        crew.start("work", work)
        crew.join()
    assert len(calls) == 1
    # An engine must not be ended from one of its own callbacks.
    assert calls[0] not in thread


def test_a_cancel_after_the_end_changes_nothing() -> None:
    cancel = threading.Event()
    crew = Crew(cancel)
    with crew.work():
        crew.join()
    cancel.set()
    crew.raise_error()


def test_a_channel_keeps_the_order_and_is_bounded() -> None:
    crew = Crew(threading.Event())
    channel: Channel[int] = Channel(crew, 2)
    put: list[int] = []

    def work() -> None:
        for number in range(5):
            channel.put(number)
            put.append(number)

    with crew.work():
        crew.start("put", work)
        wait_until(lambda: len(put) == 2, "the channel is full")
        assert [channel.get() for _ in range(5)] == [0, 1, 2, 3, 4]
        crew.join()


def test_an_allowance_lets_something_too_large_in_alone() -> None:
    crew = Crew(threading.Event())
    allowance = Allowance(crew, 10)
    taken: list[str] = []

    def large() -> None:
        allowance.take(100)
        taken.append("large")

    with crew.work():
        allowance.take(4)
        allowance.take(6)
        crew.start("large", large)
        allowance.give(4)
        assert taken == []
        allowance.give(6)
        crew.join()
        assert taken == ["large"]
        allowance.give(100)
        allowance.wait_empty()
