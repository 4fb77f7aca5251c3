"""Times are nanoseconds since 1970-01-01 UTC; other forms of them."""

from __future__ import annotations

from datetime import datetime, timezone

_NANOSECONDS = 1_000_000_000


def to_datetime(time_ns: int) -> datetime:
    """Returns an aware ``datetime`` in UTC, cut to microseconds.

    >>> to_datetime(1_500_000_000_123_456_789).isoformat()
    '2017-07-14T02:40:00.123456+00:00'
    """
    seconds, nanoseconds = divmod(time_ns, _NANOSECONDS)
    return datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=nanoseconds // 1000)


def rfc3339(time_ns: int) -> str:
    """Returns a time for programs, in UTC and to the nanosecond.

    >>> rfc3339(1_500_000_000_123_456_789)
    '2017-07-14T02:40:00.123456789Z'
    """
    seconds, nanoseconds = divmod(time_ns, _NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None).isoformat()}.{nanoseconds:09d}Z"
