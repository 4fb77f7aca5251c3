"""Which snapshots of a repository stay, by rules. Pure.

Rules hold for each group by itself: the snapshots of one workspace of one host. A snapshot stays if any rule keeps it.
One that began in the future stays too, and counts for no rule: a clock that was once years ahead would make all later
snapshots go at once.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable

import msgspec

from agent.repository.model import SnapshotSummary

_SECOND_NS = 10**9

FUTURE_NS = 3600 * _SECOND_NS
"""Further ahead of the store's clock is the future: differences of a quarter of an hour are not noticed."""


class Rules(msgspec.Struct, frozen=True):
    """How much to keep; 0 is no rule. Without any rule, everything stays.

    Attributes:
        last: the newest so many.
        hourly, daily, weekly, monthly: the newest of each of the latest so many hours, days, ISO weeks and months (UTC)
            that have a snapshot.
        within_seconds: all that began no longer than so before the newest of the group.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    within_seconds: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is no rule at all."""
        return self == Rules()


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of one snapshot: why it stays; one without a reason goes."""

    snapshot: SnapshotSummary
    reasons: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


NO_RULE = "no rule"
OTHER_GROUP = "not chosen"
IN_FUTURE = "in the future"


def judge(
    snapshots: Iterable[SnapshotSummary],
    rules: Rules,
    hosts: frozenset[str],
    workspaces: frozenset[bytes],
    now_ns: int,
) -> list[Verdict]:
    """Returns a verdict for each snapshot, by group, the newest of each first.

    Args:
        hosts, workspaces: the groups that the rules are for; empty for all.
        now_ns: the store's clock, in nanoseconds since 1970.
    """
    groups: dict[tuple[str, bytes], list[SnapshotSummary]] = {}
    for snapshot in sorted(snapshots, key=lambda item: (item.start_time_ns, item.id), reverse=True):
        groups.setdefault((snapshot.host, snapshot.workspace), []).append(snapshot)
    verdicts: list[Verdict] = []
    for (host, workspace), group in sorted(groups.items()):
        if rules.is_empty:
            verdicts += [Verdict(snapshot, (NO_RULE,)) for snapshot in group]
        elif (hosts and host not in hosts) or (workspaces and workspace not in workspaces):
            verdicts += [Verdict(snapshot, (OTHER_GROUP,)) for snapshot in group]
        else:
            future = [snapshot for snapshot in group if snapshot.start_time_ns > now_ns + FUTURE_NS]
            verdicts += [Verdict(snapshot, (IN_FUTURE,)) for snapshot in future]
            verdicts += _judge_group(group[len(future) :], rules)
    return verdicts


def _judge_group(group: list[SnapshotSummary], rules: Rules) -> list[Verdict]:
    reasons: dict[str, list[str]] = {snapshot.id: [] for snapshot in group}
    for snapshot in group[: rules.last]:
        reasons[snapshot.id].append("last")
    for name, count, period in (
        ("hourly", rules.hourly, _hour),
        ("daily", rules.daily, _day),
        ("weekly", rules.weekly, _week),
        ("monthly", rules.monthly, _month),
    ):
        for snapshot in _newest_of_periods(group, count, period):
            reasons[snapshot.id].append(name)
    for snapshot in group if rules.within_seconds else ():
        if snapshot.start_time_ns >= group[0].start_time_ns - rules.within_seconds * _SECOND_NS:
            reasons[snapshot.id].append("within")
    return [Verdict(snapshot, tuple(reasons[snapshot.id])) for snapshot in group]


_Period = tuple[int, ...]


def _newest_of_periods(
    group: list[SnapshotSummary], count: int, period: Callable[[datetime.datetime], _Period]
) -> list[SnapshotSummary]:
    found: dict[_Period, SnapshotSummary] = {}
    for snapshot in group:
        key = period(_utc(snapshot.start_time_ns))
        if key not in found:
            if len(found) == count:
                break
            found[key] = snapshot
    return list(found.values())


def _utc(time_ns: int) -> datetime.datetime:
    """Returns a time; one that no calendar has becomes the nearest that it has."""
    seconds = min(max(time_ns // _SECOND_NS, -62_135_596_800), 253_402_300_799)
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=seconds)


def _hour(when: datetime.datetime) -> _Period:
    return (*_day(when), when.hour)


def _day(when: datetime.datetime) -> _Period:
    return when.year, when.month, when.day


def _week(when: datetime.datetime) -> _Period:
    year, week, _ = when.isocalendar()
    return year, week


def _month(when: datetime.datetime) -> _Period:
    return when.year, when.month
