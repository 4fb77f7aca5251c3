"""What an agent is and how it is, as plain typed data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from controller_client.engines import EngineUse
from controller_client.storage import NamedStorage, Storage


class HealthStatus(enum.Enum):
    """What the agent's health service answers."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    SERVICE_UNKNOWN = "service_unknown"


@dataclass(frozen=True, slots=True)
class StagingFolder:
    """Where s5cmd keeps chunks on their way.

    Attributes:
        file_system: the type of its file system; empty if unknown.
        huge_pages: whether files there get huge pages, which cost less.
        description: all that in a phrase, with what would be better.
    """

    path: str
    file_system: str
    huge_pages: bool
    description: str


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What an agent is and how it is configured.

    Attributes:
        storage: ``None`` when none is configured.
        engine: the engine that downloads, and ``engine_reason`` why; ``engines`` has both directions.
        workers: worker processes that pack or write in one operation, and ``workers_reason`` why so many.
        providers: further stores that the configuration names.
        connections: connections to the store at once, and ``connections_reason`` why so many.
        staging: the folder for chunks on their way; ``None`` from an older agent.
    """

    version: str
    host: str
    start_time_ns: int
    workspace_roots: tuple[str, ...]
    storage: Storage | None
    engine: str
    engine_reason: str
    s5cmd_version: str
    format_version: int
    metrics_address: str
    connections: int
    running_operations: tuple[str, ...]
    engines: tuple[EngineUse, ...] = ()
    workers: int = 0
    workers_reason: str = ""
    providers: tuple[NamedStorage, ...] = ()
    connections_reason: str = ""
    staging: StagingFolder | None = None
