"""What the agent says, as plain typed data.

Sizes are bytes, durations seconds, rates bytes a second, times nanoseconds since 1970-01-01 UTC (``times.to_datetime``
makes a ``datetime`` of one). Paths of entries are raw bytes relative to the workspace, or to the target of a restore
(``names.show_path`` makes one printable). Every enum has the member ``UNKNOWN`` for what a newer agent may send.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from controller_client.engines import BenchmarkReport, Measurement
from controller_client.info import AgentInfo as AgentInfo
from controller_client.info import HealthStatus as HealthStatus
from controller_client.info import StagingFolder as StagingFolder
from controller_client.reports import PresentReport, PruneReport, VerifyReport
from controller_client.storage import Credentials as Credentials
from controller_client.storage import Provider as Provider
from controller_client.storage import Storage as Storage


class OperationKind(enum.Enum):
    """What an operation does."""

    UNKNOWN = "unknown"
    SNAPSHOT = "snapshot"
    RESTORE = "restore"
    VERIFY = "verify"
    PRUNE = "prune"
    BENCHMARK = "benchmark"


class OperationState(enum.Enum):
    """Where an operation stands."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to the operation."""
        return self in (OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED)


class Stage(enum.Enum):
    """A step of a pipeline."""

    UNKNOWN = "unknown"
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


class Cause(enum.Enum):
    """What a working thread spends its time on."""

    UNKNOWN = "unknown"
    PROCESSOR = "processor"
    STORE = "store"
    DISK = "disk"
    SCAN = "scan"


class ChunkKind(enum.Enum):
    """What a chunk holds."""

    UNKNOWN = "unknown"
    PACK = "pack"
    HEADER = "header"
    SEGMENT = "segment"
    END = "end"


class EntryType(enum.Enum):
    """What an entry is."""

    UNKNOWN = "unknown"
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard_link"
    FIFO = "fifo"
    CHARACTER_DEVICE = "character_device"
    BLOCK_DEVICE = "block_device"


class IfNotEmpty(enum.Enum):
    """What a restore does with a target that is not empty."""

    FAIL = "fail"
    OVERWRITE = "overwrite"
    MIRROR = "mirror"


@dataclass(frozen=True, slots=True)
class ClassTotals:
    """Files of one class (models, or other) and their content, holes not counted."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class ScanTotals:
    """What a scan or a manifest holds; final when ``complete``."""

    entries: int = 0
    directories: int = 0
    links: int = 0
    models: ClassTotals = ClassTotals()
    other: ClassTotals = ClassTotals()
    complete: bool = False

    @property
    def bytes(self) -> int:
        """The content of all files."""
        return self.models.bytes + self.other.bytes

    @property
    def files(self) -> int:
        """Files of both classes."""
        return self.models.files + self.other.files


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far one stage is. Totals are 0 while unknown; ``busy_seconds`` are summed over the stage's threads."""

    stage: Stage
    bytes_done: int = 0
    bytes_total: int = 0
    entries_done: int = 0
    entries_total: int = 0
    bytes_per_second: float = 0.0
    busy_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The operation's state changed."""

    state: OperationState


@dataclass(frozen=True, slots=True)
class ChunkFinished:
    """One chunk is stored (snapshot), written (restore) or in order (verify). ``attempts`` is 0 if it was not moved."""

    chunk_id: str
    kind: ChunkKind
    raw_bytes: int
    stored_bytes: int
    seconds: float
    attempts: int
    engine: str
    reused: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far every stage that has begun is, in the order of the data's flow."""

    stages: tuple[StageProgress, ...]
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class FileReady:
    """A large file is complete and verified under its final name (restore)."""

    path: bytes
    size: int


@dataclass(frozen=True, slots=True)
class WarningRaised:
    """Something was not saved or restored as asked. ``paths`` are the first 100 of ``count``."""

    reason: str
    message: str
    paths: tuple[bytes, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class DamagedSnapshot:
    """A snapshot that needs a damaged chunk, and the first 100 files that the chunk touches in it."""

    snapshot_id: str
    paths: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class DamagedChunk:
    """A chunk that could not be read back as it was stored, and the first 100 files it touches.

    Attributes:
        chunk_id: empty if it is the manifest of a snapshot that is damaged.
        snapshots: the first 100 snapshots that need it (verify alone looks for them).
    """

    chunk_id: str
    problem: str
    paths: tuple[bytes, ...] = ()
    snapshots: tuple[DamagedSnapshot, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation failed, as data; ``controller_client.errors.from_failure`` makes an exception of it."""

    reason: str
    message: str
    hint: str = ""
    retryable: bool = False
    damaged: tuple[DamagedChunk, ...] = ()


@dataclass(frozen=True, slots=True)
class Occupation:
    """Seconds that working threads spent on one cause, summed over threads."""

    cause: Cause
    seconds: float


@dataclass(frozen=True, slots=True)
class OperationResult:
    """What an operation did; it "completed with warnings" if ``warnings`` is not 0.

    ``occupation`` has the largest cause first: that one held the operation back. ``unchanged_files`` with
    ``unchanged_bytes`` of content were not read by a snapshot, as they had not changed since the one before.
    ``measurements`` are what it learned about transfer engines.
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
    unchanged_files: int = 0
    unchanged_bytes: int = 0
    verify: VerifyReport | None = None
    present: PresentReport | None = None
    measurements: tuple[Measurement, ...] = ()
    prune: PruneReport | None = None
    benchmark: BenchmarkReport | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """The operation ended: always its last event."""

    state: OperationState
    error: Failure | None = None
    result: OperationResult | None = None


@dataclass(frozen=True, slots=True)
class UnknownDetail:
    """A kind of event that this version of the client does not know."""


EventDetail = (
    StateChanged | ScanTotals | ChunkFinished | Progress | FileReady | WarningRaised | Completed | UnknownDetail
)  # fmt: skip
"""What happened."""


@dataclass(frozen=True, slots=True)
class Event:
    """One message of an operation; ``sequence`` increases from 1 within the operation."""

    operation: str
    sequence: int
    time_ns: int
    detail: EventDetail


@dataclass(frozen=True, slots=True)
class Operation:
    """One long-running job of an agent.

    Attributes:
        name: the name, unique on its agent.
        request_id: the id it was started with.
        path: the workspace (snapshot) or the target (restore); empty for other kinds.
        snapshot: the snapshot as the request named it (restore, verify), or the committed one's id (snapshot; empty
            before).
        end_time_ns: ``None`` while it runs.
        last_sequence: the sequence number of its last event.
        progress: the latest progress; ``None`` before the first.
        completed: how it ended; ``None`` before.
    """

    name: str
    kind: OperationKind
    state: OperationState
    request_id: str
    path: str
    snapshot: str
    create_time_ns: int
    end_time_ns: int | None
    last_sequence: int
    progress: Progress | None = None
    completed: Completed | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One committed snapshot. ``warnings`` is filled by ``get_snapshot`` alone: the first 1000 of ``warning_count``.

    In a list, ``problem`` says why the manifest of a snapshot cannot be read; then nothing but its id is known.
    """

    id: str
    parent: str
    host: str
    workspace: str
    start_time_ns: int
    commit_time_ns: int
    agent_version: str
    totals: ScanTotals
    chunks: int
    raw_bytes: int
    stored_bytes: int
    warning_count: int
    warnings: tuple[WarningRaised, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or link of a snapshot; ``path`` is empty for the workspace itself."""

    path: bytes
    type: EntryType
    mode: int
    uid: int
    gid: int
    size: int
    modify_time_ns: int
    link_target: bytes = b""


@dataclass(frozen=True, slots=True)
class CheckStep:
    """One thing that was tried with a store; ``error`` is ``None`` if it succeeded."""

    name: str
    seconds: float
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class StorageCheck:
    """How far a check of a store went; after a failed step there are no further ones."""

    steps: tuple[CheckStep, ...]
    ok: bool
