"""What a restore notes while it runs."""

from __future__ import annotations

import dataclasses
import threading

from agent.errors import DamagedChunk
from agent.events import Emit
from agent.pipeline.meter import Meter
from agent.pipeline.occupation import Occupations
from agent.pipeline.warnings import Warnings
from agent.restore.plan import Job

DAMAGED_PATHS = 100
"""Paths that are named for one damaged chunk."""


class Damage:
    """The chunks that could not be read back, with the files they touch. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.chunks: list[DamagedChunk] = []
        self.paths: set[bytes] = set()

    def add(self, job: Job, problem: str, paths: list[bytes]) -> None:
        """Notes one lost chunk."""
        with self._lock:
            self.chunks.append(DamagedChunk(job.chunk.id.hex(), problem, tuple(paths[:DAMAGED_PATHS])))
            self.paths.update(paths)


@dataclasses.dataclass(frozen=True)
class Notes:
    """Everything that the threads of one restore note. For any thread.

    Attributes:
        not_made: entries that were left out with a warning, so that further names of them cannot be made.
    """

    meter: Meter
    emit: Emit
    warnings: Warnings = dataclasses.field(default_factory=Warnings)
    occupations: Occupations = dataclasses.field(default_factory=Occupations)
    damage: Damage = dataclasses.field(default_factory=Damage)
    not_made: set[bytes] = dataclasses.field(default_factory=set)
