"""The event log: readers of any speed, attaching at any time, miss nothing that counts."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.events import (
    ChunkFinished,
    ChunkKind,
    Completed,
    FileReady,
    OperationEvent,
    OperationState,
    Progress,
    ScanTotals,
    StateChanged,
    WarningRaised,
)
from agent.operations import hub
from agent.operations.hub import EventLog, first_sequence_after_restart
from agent.operations.record import LoggedEvent

EVENTS: st.SearchStrategy[OperationEvent] = st.one_of(
    st.just(StateChanged(OperationState.RUNNING)),
    st.builds(ScanTotals, entries=st.integers(0, 9)),
    st.builds(ChunkFinished, st.just("00"), st.sampled_from(ChunkKind), st.integers(1, 9), st.integers(1, 9)),
    st.builds(Progress, stages=st.just(()), eta_seconds=st.floats(0, 9)),
    st.builds(FileReady, path=st.binary(max_size=3), size=st.integers(0, 9)),
    st.builds(
        WarningRaised,
        reason=st.sampled_from(["A", "B", "C"]),
        message=st.just("m"),
        paths=st.just((b"p",)),
        count=st.integers(1, 5),
    ),
)
END = Completed(OperationState.SUCCEEDED)


def counts(events: list[OperationEvent]) -> Counter[str]:
    found: Counter[str] = Counter()
    for event in events:
        if isinstance(event, WarningRaised):
            found[event.reason] += event.count
    return found


@settings(max_examples=150, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=60),
    # For each reader: before which event it attaches, and how many turns of the loop it sleeps after each event.
    readers=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), min_size=1, max_size=4),
)
def test_no_reader_misses_what_counts(events: list[OperationEvent], readers: list[tuple[int, int]]) -> None:
    asyncio.run(check_readers(events, readers))


async def check_readers(events: list[OperationEvent], readers: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "WARNINGS_KEPT", 3)
        patch.setattr(hub, "CHUNKS_KEPT", 4)
        patch.setattr(hub, "FILES_KEPT", 4)
        log = EventLog()
        tasks = []
        for number in range(len(events) + 1):
            tasks += [asyncio.ensure_future(read(log, slow)) for at, slow in readers if min(at, len(events)) == number]
            if number < len(events):
                log.append(events[number])
            await asyncio.sleep(0)
        log.unfold_warnings()
        log.append(END)
        seen = await asyncio.wait_for(asyncio.gather(*tasks), 30)
    states = [event for event in events if isinstance(event, StateChanged)]
    for logged in seen:
        numbers = [one.sequence for one in logged]
        assert numbers == sorted(set(numbers))
        found = [one.event for one in logged]
        assert found[-1] == END
        assert found.count(END) == 1
        assert [event for event in found if isinstance(event, StateChanged)] == states
        assert counts(found) == counts(events)
        for kind in (Progress, ScanTotals, ChunkFinished, FileReady):
            last = [event for event in events if isinstance(event, kind)][-1:]
            assert [event for event in found if isinstance(event, kind)][-1:] == last


async def read(log: EventLog, slow: int) -> list[LoggedEvent]:
    seen = []
    async for logged in log.read(0):
        seen.append(logged)
        for _ in range(slow):
            await asyncio.sleep(0)
    return seen


@settings(max_examples=50, deadline=None)
@given(events=st.lists(EVENTS, max_size=30), after=st.integers(0, 40))
def test_attaching_again_continues_after_the_number(events: list[OperationEvent], after: int) -> None:
    async def check() -> None:
        log = EventLog()
        for event in [*events, END]:
            log.append(event)
        rest = [logged async for logged in log.read(after)]
        assert rest == [logged for logged in log.after(0) if logged.sequence > after]

    asyncio.run(check())


@settings(max_examples=50, deadline=None)
@given(events=st.lists(EVENTS, max_size=30))
def test_a_log_is_rebuilt_from_its_history(events: list[OperationEvent]) -> None:
    async def check() -> None:
        log = EventLog()
        for event in [*events, END]:
            log.append(event)
        rebuilt = [logged async for logged in EventLog.rebuilt(log.history()).read(0)]
        assert rebuilt == [one for one in log.after(0) if not isinstance(one.event, Progress | ChunkFinished)]

    asyncio.run(check())


async def test_a_flood_is_kept_within_bounds() -> None:
    log = EventLog()
    for number in range(20_000):
        log.append(ChunkFinished("00", ChunkKind.PACK, 1, 1))
        log.append(Progress(()))
        log.append(FileReady(b"f%d" % number, 1))
        log.append(WarningRaised(f"REASON_{number}", "m", (b"p" * 100,), 1))
    log.unfold_warnings()
    log.append(END)
    kept = log.after(0)
    assert len(kept) <= hub.CHUNKS_KEPT + hub.FILES_KEPT + hub.WARNINGS_KEPT + hub.REASONS_KEPT + 10
    assert sum(counts([one.event for one in kept]).values()) == 20_000


async def test_nothing_comes_after_the_end() -> None:
    log = EventLog()
    log.append(END)
    with pytest.raises(ValueError):
        log.append(Progress(()))


@given(st.integers(0, 1 << 50))
def test_numbers_grow_over_a_restart(last: int) -> None:
    first = first_sequence_after_restart(last)
    # Whatever the run before gave out after the last number that was written down.
    assert first > last + (1 << 32) - 1 - last % (1 << 32)
