"""What is known of one operation that is being followed: the events so far, folded for showing."""

from __future__ import annotations

from controller_client.model import (
    Completed,
    Event,
    OperationState,
    Progress,
    ScanTotals,
    Stage,
    StageProgress,
    StateChanged,
    WarningRaised,
)

_MAIN_STAGES = (
    Stage.WRITE, Stage.UPLOAD, Stage.VERIFY, Stage.DELETE, Stage.DOWNLOAD, Stage.PACK, Stage.SCAN, Stage.INDEX,
)  # fmt: skip
"""The stages that stand for a whole operation, the best first."""


class Tracker:
    """Follows one operation.

    Attributes:
        host: the host's name, safe to show.
        title: what the operation does, safe to show.
        trouble: what is wrong with the connection; empty when nothing is.
    """

    def __init__(self, host: str, title: str, now: float) -> None:
        self.host = host
        self.title = title
        self.state = OperationState.PENDING
        self.stages: tuple[StageProgress, ...] = ()
        self.eta_seconds: float | None = None
        self.totals: ScanTotals | None = None
        self.warnings = 0
        self.trouble = ""
        self.completed: Completed | None = None
        self._began = now
        self._ended: float | None = None

    def update(self, event: Event, now: float) -> None:
        """Takes in one event."""
        self.trouble = ""
        detail = event.detail
        if isinstance(detail, StateChanged):
            self.state = detail.state
        elif isinstance(detail, ScanTotals):
            self.totals = detail
        elif isinstance(detail, Progress):
            self.stages = detail.stages
            self.eta_seconds = detail.eta_seconds
        elif isinstance(detail, WarningRaised):
            self.warnings += 1
        elif isinstance(detail, Completed):
            self._complete(detail, now)

    def _complete(self, completed: Completed, now: float) -> None:
        self.completed = completed
        self.state = completed.state
        self._ended = now
        if completed.result is not None:
            self.stages = completed.result.stages or self.stages
            self.warnings = completed.result.warnings

    def elapsed(self, now: float) -> float:
        """Returns the seconds that the operation was followed, or took if it is known."""
        if self.completed is not None and self.completed.result is not None:
            return self.completed.result.seconds
        return (self._ended if self._ended is not None else now) - self._began

    @property
    def main_stage(self) -> StageProgress | None:
        """The stage that stands for the whole operation on a single line; ``None`` before any."""
        by_stage = {item.stage: item for item in self.stages}
        known = [by_stage[stage] for stage in _MAIN_STAGES if stage in by_stage]
        with_total = [item for item in known if item.bytes_total]
        return next(iter(with_total or known), None)
