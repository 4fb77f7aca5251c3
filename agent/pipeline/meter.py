"""Counts what goes through each stage, and tells it now and then."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from agent.events import Emit, Progress, Stage, StageProgress

REPORT_SECONDS = 0.25
"""Time between two reports."""

RATE_SECONDS = 3.0
"""Rates and estimates look back this far."""


class _Count:
    __slots__ = (
        "busy", "bytes", "entries", "expected_bytes", "expected_entries", "history", "model_bytes", "spared_bytes",
        "spared_entries",
    )  # fmt: skip

    def __init__(self) -> None:
        self.bytes = self.entries = self.model_bytes = 0
        self.expected_bytes = self.expected_entries = self.spared_bytes = self.spared_entries = 0
        self.busy = 0.0
        self.history: deque[tuple[float, int]] = deque()

    @property
    def bytes_total(self) -> int:
        return max(self.expected_bytes - self.spared_bytes, 0)

    @property
    def entries_total(self) -> int:
        return max(self.expected_entries - self.spared_entries, 0)


class Meter:
    """The counts of one operation. All methods may be called from any thread.

    Args:
        stages: in the order of the data's flow.
        leading: the stage whose rate gives the estimate of the time left.
    """

    def __init__(self, stages: Iterable[Stage], leading: Stage) -> None:
        self._counts = {stage: _Count() for stage in stages}
        self._leading = leading
        self._lock = threading.Lock()
        self.started = time.monotonic()

    def add(
        self, stage: Stage, bytes_: int = 0, entries: int = 0, busy_seconds: float = 0.0, model_bytes: int = 0
    ) -> None:
        """Counts what one piece of work moved, and how long its thread worked on it."""
        with self._lock:
            count = self._counts[stage]
            count.bytes += bytes_
            count.entries += entries
            count.busy += busy_seconds
            count.model_bytes += model_bytes

    def expect(self, stage: Stage, bytes_total: int = 0, entries_total: int = 0) -> None:
        """Says how much a stage will see in all."""
        with self._lock:
            self._counts[stage].expected_bytes = bytes_total
            self._counts[stage].expected_entries = entries_total

    def spare(self, stage: Stage, bytes_: int, entries: int) -> None:
        """Says that a stage need not see so much of what is, or will be, expected."""
        with self._lock:
            self._counts[stage].spared_bytes += bytes_
            self._counts[stage].spared_entries += entries

    def progress(self) -> Progress:
        """Returns where every stage that has begun stands now."""
        now = time.monotonic()
        with self._lock:
            stages = tuple(
                self._stage(stage, count, now)
                for stage, count in self._counts.items()
                if count.bytes or count.entries or count.bytes_total or count.entries_total
            )
            leading = self._counts[self._leading]
            rate = _rate(leading, now)
            left = leading.bytes_total - leading.bytes
            eta = left / rate if leading.bytes_total and rate > 0 and left >= 0 else None
        return Progress(stages, eta)

    def stages(self) -> tuple[StageProgress, ...]:
        """Returns every stage that has begun, with its rate over the whole time."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        with self._lock:
            return tuple(
                self._figures(stage, count, count.bytes / seconds)
                for stage, count in self._counts.items()
                if count.bytes or count.entries
            )

    def _stage(self, stage: Stage, count: _Count, now: float) -> StageProgress:
        count.history.append((now, count.bytes))
        while len(count.history) > 2 and now - count.history[0][0] > RATE_SECONDS:
            count.history.popleft()
        return self._figures(stage, count, _rate(count, now))

    @staticmethod
    def _figures(stage: Stage, count: _Count, rate: float) -> StageProgress:
        return StageProgress(
            stage=stage,
            bytes_done=count.bytes,
            bytes_total=count.bytes_total,
            entries_done=count.entries,
            entries_total=count.entries_total,
            bytes_per_second=rate,
            busy_seconds=count.busy,
            model_bytes_done=count.model_bytes,
        )


def _rate(count: _Count, now: float) -> float:
    if not count.history:
        return 0.0
    then, bytes_then = count.history[0]
    return (count.bytes - bytes_then) / (now - then) if now > then else 0.0


class Reporter:
    """Emits the meter's progress every REPORT_SECONDS until it is closed, and once more then."""

    def __init__(self, meter: Meter, emit: Emit) -> None:
        self._meter = meter
        self._emit = emit
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        self._emit(self._meter.progress())

    def _run(self) -> None:
        while not self._closed.wait(REPORT_SECONDS):
            self._emit(self._meter.progress())
