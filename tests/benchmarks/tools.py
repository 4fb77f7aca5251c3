"""What every measured tool has in common."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.benchmarks.measure import Usage
from tests.benchmarks.stores import Bucket, Store
from tests.benchmarks.workspace import Contents


class Action(enum.Enum):
    """What is measured.

    ``UNCHANGED`` saves the workspace once more on the same machine, ``RESTORE_WEIGHTS`` brings back its safetensors
    files alone.
    """

    SNAPSHOT = "snapshot"
    UNCHANGED = "unchanged"
    RESTORE = "restore"
    RESTORE_WEIGHTS = "restore weights"


@dataclass(frozen=True)
class Job:
    """What a tool works on in one round: all its actions, one after another.

    Attributes:
        workspace: what is saved.
        contents: what it holds.
        chunks: a folder with the chunk files that gpusnap stores for this workspace.
        bucket: an empty bucket.
        folder: an empty folder on the disk that is measured, for whatever the tool writes.
    """

    workspace: Path
    contents: Contents
    chunks: Path
    bucket: Bucket
    folder: Path

    def target(self, action: Action) -> Path:
        """Where an action restores to; the tool makes it."""
        return self.folder / action.value.replace(" ", "-")


class Tool(Protocol):
    """One way to save a workspace and to bring it back."""

    @property
    def name(self) -> str:
        """How tables call it."""
        ...

    @property
    def actions(self) -> tuple[Action, ...]:
        """What it can do, in order."""
        ...

    @property
    def uses_store(self) -> bool:
        """Whether a store takes part; if not, measuring it once is enough."""
        ...

    def version(self) -> str:
        """Its version on one line."""
        ...

    def unfit(self, store: Store) -> str:
        """Why it cannot be measured against a store; empty if it can."""
        ...

    def original(self, job: Job) -> Path:
        """What a restored tree must be equal to."""
        ...

    def perform(self, action: Action, job: Job) -> Usage:
        """Does it and measures it.

        Raises:
            ToolError: it failed.
        """
        ...

    def close(self) -> None:
        """Ends what it has running."""
        ...
