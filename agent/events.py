"""What an operation reports while it runs, as plain data.

Pipelines emit these; the process of an operation writes them to the daemon as JSON lines, and the daemon numbers,
keeps and serves them. Sizes are bytes, durations seconds, paths raw bytes relative to the workspace or target.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated

import msgspec

from agent.errors import ErrorInfo

MOST_TIME_NS = (1 << 63) - 1
"""The latest time, in nanoseconds since 1970, that is believed: in the year 2262."""


class OperationKind(enum.Enum):
    """What an operation does."""

    SNAPSHOT = "snapshot"
    RESTORE = "restore"
    VERIFY = "verify"
    PRUNE = "prune"
    BENCHMARK = "benchmark"


class OperationState(enum.Enum):
    """Where an operation stands. The allowed transitions are in ``agent.operations.states``."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Stage(enum.Enum):
    """A step of a pipeline."""

    SCAN = "scan"
    PACK = "pack"
    COMPRESS = "compress"
    UPLOAD = "upload"
    COMMIT = "commit"
    DOWNLOAD = "download"
    DECOMPRESS = "decompress"
    WRITE = "write"
    FINISH = "finish"
    INDEX = "index"
    VERIFY = "verify"
    DELETE = "delete"


class ChunkKind(enum.Enum):
    """What a chunk holds."""

    PACK = "pack"
    HEADER = "header"
    SEGMENT = "segment"
    END = "end"


class Cause(enum.Enum):
    """What a working thread spends its time on."""

    PROCESSOR = "processor"
    STORE = "store"
    DISK = "disk"
    SCAN = "scan"


class Direction(enum.Enum):
    """Which way chunks move."""

    UPLOAD = "upload"
    DOWNLOAD = "download"


class Measurement(msgspec.Struct, frozen=True):
    """How fast a transfer engine moved chunks in one direction.

    Attributes:
        engine: the engine.
        direction: which way.
        bytes_per_second: of stored bytes.
        time_ns: when it was measured, since 1970-01-01 UTC.
        cpu_seconds_per_gb: what 10**9 bytes cost this machine's processors; 0 if that was not measured.
        operation: the operation that measured it; empty until the daemon knows.
    """

    engine: str
    direction: Direction
    bytes_per_second: float
    time_ns: Annotated[int, msgspec.Meta(ge=0, le=MOST_TIME_NS)]
    cpu_seconds_per_gb: float = 0.0
    operation: str = ""


class Occupation(msgspec.Struct, frozen=True):
    """Seconds that working threads spent on one cause, summed over threads."""

    cause: Cause
    seconds: float


class ClassTotals(msgspec.Struct, frozen=True):
    """Files of one class (models, or other) and their stored content in bytes."""

    files: int = 0
    bytes: int = 0


class ScanTotals(msgspec.Struct, frozen=True, tag="scan_totals"):
    """What the scan (snapshot) or the manifest (restore) holds; final when ``complete``."""

    entries: int = 0
    directories: int = 0
    links: int = 0
    models: ClassTotals = ClassTotals()
    other: ClassTotals = ClassTotals()
    complete: bool = False

    @property
    def files(self) -> int:
        """Files of both classes."""
        return self.models.files + self.other.files

    @property
    def bytes(self) -> int:
        """The stored content of all files."""
        return self.models.bytes + self.other.bytes


class ChunkFinished(msgspec.Struct, frozen=True, tag="chunk_finished"):
    """One chunk is stored (snapshot) or written (restore). ``attempts`` and ``seconds`` are 0 if nothing was moved."""

    chunk_id: str
    kind: ChunkKind
    raw_bytes: int
    stored_bytes: int
    seconds: float = 0.0
    attempts: int = 0
    engine: str = ""
    reused: bool = False


class StageProgress(msgspec.Struct, frozen=True):
    """How far one stage is. Totals are 0 while unknown; ``busy_seconds`` are summed over the stage's threads."""

    stage: Stage
    bytes_done: int = 0
    bytes_total: int = 0
    entries_done: int = 0
    entries_total: int = 0
    bytes_per_second: float = 0.0
    busy_seconds: float = 0.0
    model_bytes_done: int = 0


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far every stage that has begun is, in the order of the data's flow."""

    stages: tuple[StageProgress, ...]
    eta_seconds: float | None = None


class FileReady(msgspec.Struct, frozen=True, tag="file_ready"):
    """A large file is complete and verified under its final name."""

    path: bytes
    size: int


class WarningRaised(msgspec.Struct, frozen=True, tag="warning"):
    """Something was not saved or restored as asked, or (made by the daemon) had to be done again.

    ``paths`` are the first 100 of ``count``.
    """

    reason: str
    message: str
    paths: tuple[bytes, ...] = ()
    count: int = 0


class VerifyReport(msgspec.Struct, frozen=True):
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


class PresentReport(msgspec.Struct, frozen=True):
    """What the target of a restore held already.

    Attributes:
        kept_files: files that were as they should be, and stayed.
        kept_bytes: their stored content, and that of unfinished files that were complete so far.
        copied_bytes: content of other files that was copied within the target.
    """

    kept_files: int
    kept_bytes: int
    copied_bytes: int


class Garbage(msgspec.Struct, frozen=True):
    """Chunks that nothing needs, or nothing that stays, and their bytes in the store."""

    chunks: int = 0
    bytes: int = 0


class SnapshotVerdict(msgspec.Struct, frozen=True):
    """What retention says about one snapshot: the reasons why it stays; one without a reason goes."""

    snapshot_id: str
    host: str
    workspace: bytes
    reasons: tuple[str, ...]


class PruneReport(msgspec.Struct, frozen=True):
    """What a prune did, or would do.

    Attributes:
        dry_run: whether it only looked.
        grace_seconds: how long the repository keeps what nobody needs.
        kept, removed: snapshots that stay and that went.
        verdicts: of those that went, then of those that stay; the first 1000 at most.
        freed: chunks that were deleted.
        condemned: chunks that the next prune deletes after one grace, if still nobody needs them.
        held: chunks that only deleted snapshots need; they are condemned once their grace is over.
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


class BenchmarkRun(msgspec.Struct, frozen=True):
    """One engine moved so many bytes in one direction; ``round`` counts from 1. CPU is that of the agent's machine."""

    engine: str
    direction: Direction
    round: int
    bytes: int
    seconds: float
    cpu_seconds: float


class BenchmarkReport(msgspec.Struct, frozen=True):
    """What a benchmark did, and with which store.

    Attributes:
        provider: the vendor, as in the configuration.
        bucket: the bucket; empty for a folder.
        endpoint: the URL, or the folder; empty for AWS's own.
        runs: in the order in which they were made.
    """

    provider: str
    bucket: str
    endpoint: str
    runs: tuple[BenchmarkRun, ...]


class OperationResult(msgspec.Struct, frozen=True):
    """What an operation did. ``occupation`` has the largest cause first: that one held it back.

    Attributes:
        unchanged_files: files that a snapshot did not read, as they had not changed since its parent.
        unchanged_bytes: their content.
        measurements: what was learned about transfer engines.
    """

    snapshot_id: str
    totals: ScanTotals = ScanTotals()
    chunks: int = 0
    chunks_transferred: int = 0
    raw_bytes: int = 0
    transferred_bytes: int = 0
    seconds: float = 0.0
    warnings: int = 0
    engine: str = ""
    engine_reason: str = ""
    stages: tuple[StageProgress, ...] = ()
    occupation: tuple[Occupation, ...] = ()
    verify: VerifyReport | None = None
    present: PresentReport | None = None
    prune: PruneReport | None = None
    unchanged_files: int = 0
    unchanged_bytes: int = 0
    measurements: tuple[Measurement, ...] = ()
    benchmark: BenchmarkReport | None = None

    @property
    def handled_bytes(self) -> int:
        """Bytes of the archive that were read or written: without what was unchanged, or was there already."""
        kept = self.present.kept_bytes if self.present is not None else 0
        return max(self.raw_bytes - self.unchanged_bytes - kept, 0)


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """From here on the operation leaves things behind under a snapshot's id. For the journal, never for callers.

    A restore has found its target as asked for and begins to write the snapshot there; a snapshot begins to upload.
    """

    snapshot_id: str


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """The operation's process is there, whatever it may wait for. For the daemon alone."""


class Succeeded(msgspec.Struct, frozen=True, tag="succeeded"):
    """The last message of an operation's process when all went well."""

    result: OperationResult


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The last message of an operation's process when it failed or was cancelled (reason CANCELLED)."""

    error: ErrorInfo
    result: OperationResult | None = None


class StateChanged(msgspec.Struct, frozen=True, tag="state_changed"):
    """The operation's state changed. Made by the daemon, never by a pipeline."""

    state: OperationState


class Completed(msgspec.Struct, frozen=True, tag="completed"):
    """The operation ended. Made by the daemon, never by a pipeline."""

    state: OperationState
    error: ErrorInfo | None = None
    result: OperationResult | None = None


PipelineEvent = ScanTotals | ChunkFinished | Progress | FileReady | WarningRaised | Begun
"""What a pipeline emits while it runs."""

WorkerMessage = ScanTotals | ChunkFinished | Progress | FileReady | WarningRaised | Begun | Alive | Succeeded | Failed
"""One line that the process of an operation writes."""

OperationEvent = StateChanged | ScanTotals | ChunkFinished | Progress | FileReady | WarningRaised | Completed
"""What the daemon numbers, keeps and serves."""

Emit = Callable[[PipelineEvent], None]
"""How a pipeline reports; called from any of its threads."""
