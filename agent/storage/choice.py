"""Which of the two engines for S3 stores moves the chunks, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from agent.events import Direction, Measurement

S5CMD = "s5cmd"
STREAM = "stream"
"""The names of the engines for S3 stores."""

FOLDER = "directory"
"""The name of the engine for a store in a folder."""

MARGIN = 1.1
"""s5cmd is taken if it is so many times as fast: otherwise stream moves as much for a third of the processor time
(0.35 to 0.9 seconds a GB against 1.1 to 1.7, measured on loopback), and needs no staging folder."""


class Choice(msgspec.Struct, frozen=True):
    """An engine, and one sentence saying why it is taken."""

    engine: str
    reason: str


class EngineAccount(msgspec.Struct, frozen=True):
    """Which engine moved an operation's chunks, why that one, and what was learned about both."""

    engine: str
    reason: str
    measurements: tuple[Measurement, ...] = ()


def other(engine: str) -> str:
    """Returns the engine that takes over from ``engine``."""
    return STREAM if engine == S5CMD else S5CMD


def preferred(speeds: Mapping[str, float]) -> str:
    """Returns the engine to take when both moved so many bytes a second under the same conditions."""
    return S5CMD if speeds[S5CMD] > MARGIN * speeds[STREAM] else STREAM


def choose(measurements: Iterable[Measurement], direction: Direction) -> Choice | None:
    """Returns the engine that measurements of one store speak for; ``None`` unless both were measured."""
    speeds = {item.engine: item.bytes_per_second for item in measurements if item.direction is direction}
    if not {S5CMD, STREAM} <= speeds.keys():
        return None
    return Choice(preferred(speeds), f"measured here before: {compared(speeds, direction)}")


def compared(speeds: Mapping[str, float], direction: Direction) -> str:
    """Returns the outcome of a comparison for people."""
    winner = preferred(speeds)
    loser = other(winner)
    figures = f"{direction.value} at {_rate(speeds[winner])}, {loser} at {_rate(speeds[loser])}"
    if winner == STREAM and speeds[S5CMD] * MARGIN > speeds[STREAM]:
        return f"{figures}; where both are as fast, stream costs less processor time"
    return figures


def _rate(bytes_per_second: float) -> str:
    rate = bytes_per_second / 1e6
    return f"{rate:,.0f} MB/s" if rate >= 10 else f"{rate:.1f} MB/s"
