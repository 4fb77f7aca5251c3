"""What a restore notes while it runs."""

from __future__ import annotations

import dataclasses
import threading

from agent.errors import DamagedChunk
from agent.events import Emit, Stage
from agent.pipeline.meter import Meter
from agent.pipeline.occupation import Occupations
from agent.pipeline.warnings import Warnings
from agent.restore.plan import Job
from agent.restore.task import Written

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


class Present:
    """What the target held already. For any thread.

    Attributes:
        files, bytes: files that were kept, with their stored content.
        copied: bytes of content that were copied within the target.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.files = self.bytes = self.copied = 0

    def add(self, files: int = 0, bytes_: int = 0, copied: int = 0) -> None:
        """Counts more."""
        with self._lock:
            self.files += files
            self.bytes += bytes_
            self.copied += copied


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
    present: Present = dataclasses.field(default_factory=Present)

    def keep(self, files: int, bytes_: int) -> None:
        """Counts files that stay as they are: they need not be written."""
        self.present.add(files, bytes_)
        self.meter.spare(Stage.WRITE, bytes_, files)

    def written(self, written: Written) -> None:
        """Counts what a task has done."""
        self.warnings.merge(written.warnings)
        self.not_made.update(written.not_made)
        self.keep(written.kept_files, written.kept_bytes)
        self.meter.add(Stage.WRITE, written.content_bytes, written.entries, written.write_seconds, written.model_bytes)
