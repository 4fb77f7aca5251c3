"""Which snapshots stay: the rules by example, and what holds for every choice of rules."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.maintenance.retention import IN_FUTURE, NO_RULE, OTHER_GROUP, Rules, Verdict, judge
from agent.repository import keys
from agent.repository.model import SnapshotSummary
from tests.support import forging

ANY = frozenset[str](), frozenset[bytes]()
DAY = 86400
LATE = 2**63
"""Nothing is in the future of it."""


def at(text: str, host: str = "host", workspace: bytes = b"/w") -> SnapshotSummary:
    """Returns a snapshot that began then (UTC)."""
    when = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc)
    return made(int(when.timestamp()) * 10**9, host, workspace)


def made(time_ns: int, host: str = "host", workspace: bytes = b"/w") -> SnapshotSummary:
    summary = forging.summary(keys.new_snapshot_id(max(time_ns, 0)))
    return msgspec.structs.replace(summary, start_time_ns=time_ns, host=host, workspace=workspace)


def stay(snapshots: list[SnapshotSummary], rules: Rules) -> dict[int, tuple[str, ...]]:
    """Returns the reasons of what stays, by its place in the list."""
    reasons = {verdict.snapshot.id: verdict.reasons for verdict in judge(snapshots, rules, *ANY, LATE) if verdict.stays}
    return {number: reasons[item.id] for number, item in enumerate(snapshots) if item.id in reasons}


YEAR = [
    at("2026-11-23T11:00:00"),
    at("2026-11-23T10:59:59"),
    at("2026-11-23T10:00:00"),
    at("2026-11-22T23:00:00"),
    at("2026-11-16T00:00:00"),
    at("2026-11-15T12:00:00"),
    at("2026-10-31T12:00:00"),
    at("2026-01-01T00:00:00"),
    at("2025-12-31T23:59:59"),
]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (Rules(last=2), [0, 1]),
        (Rules(last=100), list(range(9))),
        (Rules(hourly=1), [0]),
        (Rules(hourly=2), [0, 1]),
        (Rules(hourly=3), [0, 1, 3]),
        (Rules(daily=3), [0, 3, 4]),
        # 2026-11-23 is a Monday; 2026-01-01 and 2025-12-31 are in the same ISO week.
        (Rules(weekly=2), [0, 3]),
        (Rules(weekly=9), [0, 3, 5, 6, 7]),
        (Rules(monthly=2), [0, 6]),
        (Rules(monthly=9), [0, 6, 7, 8]),
        (Rules(within_seconds=3600), [0, 1, 2]),
        (Rules(within_seconds=3599), [0, 1]),
        (Rules(last=1, monthly=2), [0, 6]),
        (Rules(), list(range(9))),
    ],
)
def test_the_rules_by_example(rules: Rules, expected: list[int]) -> None:
    assert sorted(stay(YEAR, rules)) == expected


def test_every_reason_is_told() -> None:
    assert stay(YEAR[:1], Rules(1, 1, 1, 1, 1, 1)) == {0: ("last", "hourly", "daily", "weekly", "monthly", "within")}
    assert stay(YEAR, Rules())[8] == (NO_RULE,)


def test_groups_are_judged_by_themselves() -> None:
    busy = [at(f"2026-11-23T1{number}:00:00") for number in range(5)]
    quiet = [at("2020-01-01T00:00:00", workspace=b"/other"), at("2020-01-01T00:00:00", host="another")]
    assert sorted(stay([*busy, *quiet], Rules(last=1, within_seconds=10))) == [4, 5, 6]


def test_only_chosen_groups_are_judged() -> None:
    groups = [(host, workspace) for host in "ab" for workspace in (b"/v", b"/w")]
    snapshots = [at(f"2026-11-2{day}T00:00:00", *group) for day in (1, 2) for group in groups]

    def gone(hosts: set[str], workspaces: set[bytes]) -> set[tuple[str, bytes]]:
        verdicts = judge(snapshots, Rules(last=1), frozenset(hosts), frozenset(workspaces), LATE)
        assert all(verdict.reasons != (NO_RULE,) for verdict in verdicts)
        return {(verdict.snapshot.host, verdict.snapshot.workspace) for verdict in verdicts if not verdict.stays}

    assert gone(set(), set()) == set(groups)
    assert gone({"a"}, set()) == {("a", b"/v"), ("a", b"/w")}
    assert gone({"a"}, {b"/w"}) == {("a", b"/w")}
    assert gone({"x"}, set()) == set()
    verdicts = judge(snapshots, Rules(last=1), frozenset({"x"}), frozenset(), LATE)
    assert {verdict.reasons for verdict in verdicts} == {(OTHER_GROUP,)}


@pytest.mark.parametrize(
    "rules",
    [Rules(last=2), Rules(hourly=2), Rules(daily=2), Rules(weekly=2), Rules(monthly=2), Rules(within_seconds=DAY)],
)
def test_a_clock_that_was_years_ahead_takes_no_snapshot_with_it(rules: Rules) -> None:
    now_ns = YEAR[0].start_time_ns
    future = [at("2030-01-01T00:00:00"), at("2031-01-01T00:00:00"), at("2036-01-01T00:00:00", workspace=b"/other")]
    alone = {verdict.snapshot.id: verdict.reasons for verdict in judge(YEAR, rules, *ANY, now_ns)}
    verdicts = {verdict.snapshot.id: verdict.reasons for verdict in judge([*YEAR, *future], rules, *ANY, now_ns)}
    assert verdicts == {**alone, **{snapshot.id: (IN_FUTURE,) for snapshot in future}}
    # Clocks that are a little apart make no future.
    soon = at("2026-11-23T11:14:59")
    verdicts = {verdict.snapshot.id: verdict.reasons for verdict in judge([*YEAR, soon], rules, *ANY, now_ns)}
    assert verdicts[soon.id]
    assert IN_FUTURE not in verdicts[soon.id]


COUNTS = st.integers(0, 6)
RULES = st.builds(Rules, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.sampled_from([0, 1, 3600, 5 * DAY, 400 * DAY]))
TIMES = st.integers(1_600_000_000, 1_700_000_000).map(lambda second: second * 10**9) | st.integers(-(2**63), 2**63 - 1)
SNAPSHOTS = st.lists(st.builds(made, TIMES, st.sampled_from("ab"), st.sampled_from([b"/v", b"/w"])), max_size=40)


def groups_of(verdicts: list[Verdict]) -> dict[tuple[str, bytes], list[Verdict]]:
    groups: dict[tuple[str, bytes], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.snapshot.host, verdict.snapshot.workspace), []).append(verdict)
    return groups


@given(SNAPSHOTS, RULES)
def test_whatever_the_rules(snapshots: list[SnapshotSummary], rules: Rules) -> None:
    verdicts = judge(snapshots, rules, *ANY, LATE)
    assert sorted(verdict.snapshot.id for verdict in verdicts) == sorted(snapshot.id for snapshot in snapshots)
    for group in groups_of(verdicts).values():
        # The newest always stays, and so at least one of each group.
        assert group[0].stays
        times = [verdict.snapshot.start_time_ns for verdict in group]
        assert times == sorted(times, reverse=True)
        kept = [verdict for verdict in group if verdict.stays]
        if not rules.is_empty and not rules.within_seconds:
            assert len(kept) <= rules.last + rules.hourly + rules.daily + rules.weekly + rules.monthly
        if rules.last:
            assert len(kept) >= min(rules.last, len(group))


@given(SNAPSHOTS, RULES, RULES)
def test_more_rules_keep_more(snapshots: list[SnapshotSummary], few: Rules, more: Rules) -> None:
    both = Rules(*(max(getattr(few, field), getattr(more, field)) for field in few.__struct_fields__))
    if few.is_empty:
        return
    kept = {verdict.snapshot.id for verdict in judge(snapshots, few, *ANY, LATE) if verdict.stays}
    assert kept <= {verdict.snapshot.id for verdict in judge(snapshots, both, *ANY, LATE) if verdict.stays}


@given(SNAPSHOTS, RULES)
def test_the_same_rules_again_remove_nothing_more(snapshots: list[SnapshotSummary], rules: Rules) -> None:
    left = [verdict.snapshot for verdict in judge(snapshots, rules, *ANY, LATE) if verdict.stays]
    assert all(verdict.stays for verdict in judge(left[::-1], rules, *ANY, LATE))
