"""How room is divided between two engines."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import CancelledError
from agent.storage.arena import GRAIN
from agent.storage.auto_gate import Admission, Gate
from agent.storage.engine import Incoming, Outgoing, Share, TransferReport
from tests.support.processes import wait_until

SECONDS = 30.0


class Idle:
    """An engine that is never asked for anything: the gate only divides room."""

    bytes_moved = 0
    capacity = 1 << 60
    processor_seconds = 0.0
    sources = None
    loans = None

    def __init__(self, name: str) -> None:
        self.name = name

    def outgoing(self, size: int) -> Outgoing:
        raise NotImplementedError

    def upload(self, outgoing: Outgoing, key: str) -> Future[TransferReport]:
        raise NotImplementedError

    def download(self, key: str, size: int) -> Future[Incoming]:
        raise NotImplementedError

    def widen(self, share: Share) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError


def make_gate(capacity: int, drained: list[None] | None = None) -> Gate:
    gate = Gate(capacity, lambda: drained.append(None) if drained is not None else None)
    gate.add(Idle("a"), capacity // 2)
    gate.add(Idle("b"), capacity // 2)
    return gate


def held(gate: Gate, name: str) -> int:
    contender = gate.get(name)
    assert contender is not None
    return contender.held


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 40), st.lists(st.integers(0, 50 * GRAIN), min_size=1, max_size=60))
def test_no_engine_and_not_both_hold_more_than_they_may(grains: int, sizes: list[int]) -> None:
    capacity = grains * GRAIN
    gate = make_gate(capacity)
    lock = threading.Lock()
    now: dict[str, list[int]] = {"a": [], "b": []}

    def use(size: int) -> None:
        admission = gate.admit(size)
        mine = now[admission.contender.name]
        with lock:
            mine.append(admission.charge)
            everything = now["a"] + now["b"]
            assert len(everything) == 1 or sum(everything) <= capacity
            assert len(mine) == 1 or sum(mine) <= capacity // 2
        with lock:
            mine.remove(admission.charge)
        gate.moved(admission, size)
        gate.give_back(admission)
        gate.give_back(admission)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(use, size) for size in sizes]:
            future.result(SECONDS)
    assert held(gate, "a") == held(gate, "b") == 0


def test_who_has_less_to_do_gets_the_next() -> None:
    gate = make_gate(100 * GRAIN)
    admissions = [gate.admit(5 * GRAIN) for _ in range(4)]
    assert sorted(each.contender.name for each in admissions) == ["a", "a", "b", "b"]
    for admission in admissions:
        if admission.contender.name == "b":
            gate.moved(admission, 5 * GRAIN)
    assert [gate.admit(GRAIN).contender.name for _ in range(3)] == ["b"] * 3, "though it still holds what it has moved"
    assert gate.busiest() == "b"


def test_one_that_rests_gets_nothing_and_says_when_it_is_empty() -> None:
    drained: list[None] = []
    gate = make_gate(100 * GRAIN, drained)
    first = [gate.admit(GRAIN) for _ in range(2)]
    gate.rest("a")
    assert {gate.admit(GRAIN).contender.name for _ in range(5)} == {"b"}
    assert gate.remove_drained("a") is None
    assert not drained
    for admission in first:
        gate.give_back(admission)
    assert len(drained) == 1
    claimed = gate.claim("a")
    assert gate.remove_drained("a") is None, "somebody is about to use it"
    gate.give_back(gate.admit_to(claimed, GRAIN))
    removed = gate.remove_drained("a")
    assert removed is claimed
    assert gate.get("a") is None
    gate.widen("b")
    assert gate.admit(80 * GRAIN).contender.name == "b"


def test_what_another_failed_at_goes_ahead_of_all_that_wait() -> None:
    gate = make_gate(10 * GRAIN)
    gate.rest("b")
    all_room = gate.admit(10 * GRAIN - 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gate.admit, GRAIN)
        wait_until(lambda: len(gate._queue) == 1, "somebody waits")
        rescued = gate.admit_to(gate.claim("b"), 5 * GRAIN)
        assert not waiting.done()
        gate.give_back(all_room)
        assert waiting.result(SECONDS).contender.name == "a"
    gate.give_back(rescued)


def test_abort_ends_every_wait() -> None:
    gate = make_gate(4 * GRAIN)
    admissions: list[Admission] = [gate.admit(4 * GRAIN)]
    claimed = gate.claim(admissions[0].contender.name)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(gate.admit, GRAIN), pool.submit(gate.admit_to, claimed, GRAIN)]
        wait_until(lambda: len(gate._queue) == 1, "somebody waits")
        gate.abort()
        for future in waiting:
            with pytest.raises(CancelledError):
                future.result(SECONDS)
    with pytest.raises(CancelledError):
        gate.admit(0)
    gate.give_back(admissions[0])
