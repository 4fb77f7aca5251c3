"""What single kinds of operations found and did, as plain typed data. Sizes are bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PresentReport:
    """What the target of a restore held already.

    Attributes:
        kept_files: files that were as they should be, and stayed.
        kept_bytes: their stored content, and that of unfinished files that were complete so far.
        copied_bytes: content of other files that was copied within the target.
    """

    kept_files: int
    kept_bytes: int
    copied_bytes: int


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found in order.

    Attributes:
        full: whether the chunks were read, or only looked for.
        snapshots: the snapshots that were verified.
        chunks: their distinct chunks.
        stored_bytes: the bytes of those in the store.
    """

    full: bool
    snapshots: int
    chunks: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class KeepRules:
    """Which snapshots stay: one that any rule keeps. 0 is no rule, and without any rule all stay.

    The rules hold for each workspace of each host by itself. What began in the future stays, and counts for no rule.

    Attributes:
        last: the newest so many.
        hourly, daily, weekly, monthly: the newest of each of the latest so many hours, days, ISO weeks and months (UTC)
            that have a snapshot.
        within_seconds: all that began no longer than so before the newest.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    within_seconds: int = 0


KEEP_ALL = KeepRules()
"""No rule: no snapshot is deleted."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A number of chunks and their bytes in the store."""

    chunks: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotVerdict:
    """What retention says about one snapshot: the reasons why it stays; one without a reason goes."""

    snapshot_id: str
    host: str
    workspace: str
    reasons: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune did, or would do.

    Attributes:
        dry_run: whether it only looked.
        grace_seconds: how long the repository keeps what nobody needs.
        kept, removed: snapshots that stay and that were deleted.
        verdicts: of those that were deleted, then of those that stay; the first 1000 at most.
        freed: chunks that were deleted.
        condemned: chunks that a prune deletes after one grace, if still nobody needs them.
        held: chunks that only deleted snapshots need; they are condemned once the grace of those is over.
        litter: other objects that interrupted operations had left, and that were deleted.
        minimum_storage_days: for how long the provider charges an object at least; 0 for no such time.
        early: the chunks of ``freed``, ``condemned`` and ``held`` that may go while they are younger than that.
    """

    dry_run: bool
    grace_seconds: int
    kept: int
    removed: int
    verdicts: tuple[SnapshotVerdict, ...] = ()
    freed: Garbage = Garbage()
    condemned: Garbage = Garbage()
    held: Garbage = Garbage()
    litter: int = 0
    minimum_storage_days: int = 0
    early: Garbage = Garbage()
