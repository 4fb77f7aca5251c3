"""A repository in memory with a clock, and prunes of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec

from agent.config.model import Provider, StorageConfig
from agent.events import OperationResult, PipelineEvent, PruneReport, WarningRaised
from agent.maintenance.prune import Prune
from agent.maintenance.request import PruneRequest
from agent.maintenance.retention import Rules
from agent.repository import keys
from agent.repository.grace import Grace
from agent.repository.manifest_writer import ManifestWriter
from agent.repository.model import Chunk, SnapshotSummary
from agent.repository.repository import Repository
from tests.support import forging
from tests.support.virtual_store import Objects, VirtualStore

GRACE = Grace(3600)
DAY = 86400


class Kept:
    """A repository in memory, with a clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = Objects()
        self.store = VirtualStore(self.objects)
        self.repository = Repository(self.store)
        forging.set_grace(self.store, GRACE)
        self.warnings: list[WarningRaised] = []

    def chunk(self, number: int) -> str:
        """Stores a chunk of ``number + 1`` hundred bytes and returns its key."""
        raw = bytes([number]) * 100 * (number + 1)
        key = keys.chunk(forging.chunk(raw).id)
        self.store.write(key, os.urandom(100 * (number + 1)))
        return key

    def snapshot(self, day: int, *numbers: int, host: str = "host", workspace: bytes = b"/w") -> str:
        """Stores a snapshot of these chunks that began on that day."""
        snapshot_id = keys.new_snapshot_id(day * DAY * 10**9)
        table = [forging.chunk(bytes([number]) * 100 * (number + 1)) for number in numbers]
        for number in numbers:
            self.chunk(number)
        facts = forging.summary(snapshot_id)
        summary = msgspec.structs.replace(facts, start_time_ns=day * DAY * 10**9, host=host, workspace=workspace)
        path = self.folder / snapshot_id
        self.store.write(keys.manifest(snapshot_id), manifest(path, summary, table))
        self.store.write(keys.chunk_list(snapshot_id), b"x")
        return snapshot_id

    def prune(
        self,
        rules: Rules = Rules(),  # noqa: B008 - immutable
        *,
        hosts: tuple[str, ...] = (),
        workspaces: tuple[bytes, ...] = (),
        dry_run: bool = False,
        provider: Provider = Provider.S3,
    ) -> PruneReport:
        """Prunes and returns the report."""
        events: list[PipelineEvent] = []
        request = PruneRequest(rules, hosts, workspaces, dry_run, "", StorageConfig(provider, "bucket"))
        result: OperationResult = Prune(request, self.repository, events.append, threading.Event()).run()
        self.warnings = [event for event in events if isinstance(event, WarningRaised)]
        assert result.prune is not None
        return result.prune

    def later(self, seconds: float = GRACE.seconds + 10) -> None:
        """Lets time pass."""
        self.objects.now += seconds

    def chunks(self) -> set[str]:
        """Returns the keys of all chunks."""
        return set(self.objects.keys(keys.CHUNKS))


def manifest(path: Path, summary: SnapshotSummary, table: list[Chunk]) -> bytes:
    """Writes a manifest of a workspace with nothing in it, and returns its bytes."""
    with path.open("wb") as file:
        writer = ManifestWriter(file)
        writer.add_entry(forging.directory(b""))
        writer.finish(summary, table, [])
    return path.read_bytes()
