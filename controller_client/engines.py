"""What is known of an agent's transfer engines, as plain typed data. Rates are bytes a second."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from controller_client.storage import Provider


class Direction(enum.Enum):
    """Which way chunks move."""

    UNKNOWN = "unknown"
    UPLOAD = "upload"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class Measurement:
    """How fast a transfer engine moved stored bytes in one direction.

    Attributes:
        engine: the engine.
        direction: which way.
        bytes_per_second: where two engines worked side by side (in operations other than benchmarks), they shared what
            there was.
        time_ns: when, since 1970-01-01 UTC.
        cpu_seconds_per_gb: what 10**9 bytes cost the processors of the agent's machine; 0 if that was not measured.
        operation: the operation that measured it.
    """

    engine: str
    direction: Direction
    bytes_per_second: float
    time_ns: int
    cpu_seconds_per_gb: float = 0.0
    operation: str = ""


@dataclass(frozen=True, slots=True)
class EngineUse:
    """The engine that the next operation takes in one direction ("auto": it is yet to find out), and why."""

    direction: Direction
    engine: str
    reason: str
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """One engine moved so many bytes in one direction; ``round`` counts from 1. CPU is that of the agent's machine."""

    engine: str
    direction: Direction
    round: int
    bytes: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """What a benchmark did, and with which store.

    Attributes:
        provider: the vendor.
        bucket: the bucket; empty for a folder.
        endpoint: the URL, or the folder; empty for AWS's own.
        runs: in the order in which they were made.
    """

    provider: Provider
    bucket: str
    endpoint: str
    runs: tuple[BenchmarkRun, ...]
