"""Numbers and times for people."""

from __future__ import annotations

from datetime import datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """Returns bytes in binary units with about three digits.

    >>> size(0), size(1023), size(1536), size(68719476736)
    ('0 B', '1023 B', '1.5 KiB', '64.0 GiB')
    """
    value, unit = _scale(count)
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _scale(count: float) -> tuple[float, str]:
    value = float(count)
    for unit in _UNITS[:-1]:
        if round(value) < 1024:
            return value, unit
        value /= 1024
    return value, _UNITS[-1]


def rate(bytes_per_second: float) -> str:
    """Returns a rate.

    >>> rate(157286400)
    '150 MiB/s'
    """
    return f"{size(bytes_per_second)}/s"


def megabytes_a_second(bytes_per_second: float) -> str:
    """Returns a rate as networks are told: in millions of bytes.

    >>> megabytes_a_second(1.4e9), megabytes_a_second(2.54e6)
    ('1,400 MB/s', '2.5 MB/s')
    """
    rate = bytes_per_second / 1e6
    return f"{rate:,.0f} MB/s" if rate >= 10 else f"{rate:.1f} MB/s"


def count(number: int, singular: str, plural: str = "") -> str:
    """Returns a number with its noun.

    >>> count(1, "file"), count(40120, "entry", "entries")
    ('1 file', '40,120 entries')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def duration(seconds: float) -> str:
    """Returns a length of time.

    >>> duration(0.042), duration(12.34), duration(75), duration(3700), duration(200000)
    ('42 ms', '12.3 s', '1 min 15 s', '1 h 01 min', '2 d 7 h')
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def clock(seconds: float) -> str:
    """Returns a length of time as a clock that runs, so that its width rarely changes.

    >>> clock(0.4), clock(75), clock(3725)
    ('0:00', '1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def local_time(time_ns: int) -> str:
    """Returns a time in the time zone of the person, to the second."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
