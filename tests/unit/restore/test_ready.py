"""What the writing threads of a restore take up next."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import pytest

from agent.errors import CancelledError
from agent.repository.manifest_reader import Location
from agent.restore.plan import PackJob, SegmentJob
from agent.restore.ready import Fetched, Ready, Unfetched
from agent.storage.engine import Incoming
from tests.support import forging

SECONDS = 30.0


def unfetched(number: int) -> Unfetched:
    return Unfetched(SegmentJob(forging.chunk(b"segment %d" % number), []))


def fetched(number: int) -> Fetched:
    return Fetched(PackJob(forging.chunk(b"pack %d" % number), cast("Location", None), 0), 1, Future[Incoming]())


def nothing() -> None:
    pass


@pytest.mark.parametrize("prefers_unfetched", [False, True])
def test_one_kind_comes_first_and_each_in_order(prefers_unfetched: bool) -> None:
    ready = Ready()
    items: list[Fetched | Unfetched] = [unfetched(1), fetched(1), fetched(2), unfetched(2)]
    for item in items:
        ready.put(item)
    ready.end()
    taken = [ready.take(nothing, prefers_unfetched) for _ in range(5)]
    expected = sorted(items, key=lambda item: isinstance(item, Unfetched) is not prefers_unfetched)
    assert taken == [*expected, None]


@pytest.mark.parametrize("item", [unfetched(1), fetched(1)], ids=["unfetched", "fetched"])
@pytest.mark.parametrize("prefers_unfetched", [False, True])
def test_whoever_waits_gets_either_kind(item: Fetched | Unfetched, prefers_unfetched: bool) -> None:
    ready = Ready()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ready.take, nothing, prefers_unfetched) for _ in range(3)]
        ready.put(item)
        ready.end()
        assert sorted((each.result(SECONDS) is None) for each in waiting) == [False, True, True]


def test_whoever_waits_is_asked_whether_all_stops() -> None:
    asked: list[None] = []

    def check() -> None:
        asked.append(None)
        if len(asked) == 3:
            raise CancelledError("the operation stops")

    with pytest.raises(CancelledError):
        Ready().take(check, prefers_unfetched=True)
