"""What the maintenance of a repository found and did, as plain typed data. Sizes are bytes."""

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
