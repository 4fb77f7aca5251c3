"""The last step of a snapshot: makes sure that all it needs is there, and stores the manifest while that holds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agent.errors import DamagedChunk, DataLossError, DeadlinePassedError, ObjectNotFoundError
from agent.pipeline.crew import POLL_SECONDS, Crew
from agent.pipeline.memory import anonymous
from agent.repository import frame, keys
from agent.repository.grace import Grace
from agent.repository.integrity import check_chunk
from agent.repository.lease import Lease, take_lease
from agent.repository.model import Chunk
from agent.repository.presence import find_faults
from agent.storage.clock import read_clock
from agent.storage.store import Store

LEASES = 3
"""Further leases that are taken when the one before runs out."""

READ_ATTEMPTS = 3
"""A chunk that is to be stored once more is read so often when it arrives damaged: the damage may be on the way."""


class Commit:
    """Commits one snapshot.

    Args:
        store: the repository's.
        prefix: the prefix of its keys.
        snapshot_id: the snapshot's id.
        grace: the repository's.
        crew: its ``check`` stops waits.
    """

    def __init__(self, store: Store, prefix: str, snapshot_id: str, grace: Grace, crew: Crew) -> None:
        self._store = store
        self._prefix = prefix.strip("/")
        self._id = snapshot_id
        self._grace = grace
        self._crew = crew

    def run(self, manifest_path: str, table: Sequence[Chunk], lease: Lease) -> None:
        """Uploads the list of chunks and then the manifest: from then on the snapshot exists.

        Args:
            manifest_path: the manifest, a local file.
            table: every chunk of the archive: found in the store, or uploaded, under ``lease``.

        Raises:
            DeadlinePassedError: it took too long, and chunks were pruned meanwhile; or every further lease ran out.
            DataLossError: it took too long, and a chunk that had to be stored once more is damaged in the store.
        """
        self._write_chunk_list(f"{manifest_path}.chunks", table)
        self._settle(table, lease)
        for _ in range(LEASES):
            try:
                self._upload(manifest_path, lease)
            except DeadlinePassedError:
                lease = self._renew(table)
            else:
                return
        self._upload(manifest_path, lease)

    def _upload(self, manifest_path: str, lease: Lease) -> None:
        self._store.upload(keys.chunk_list(self._id), f"{manifest_path}.chunks")
        self._crew.check()
        self._store.upload_before(keys.manifest(self._id), manifest_path, lease.deadline)

    def _renew(self, table: Sequence[Chunk]) -> Lease:
        """Looks for everything once more: under the lease before it may have been pruned."""
        lease = take_lease(self._store, self._grace, read_clock(self._store))
        self._demand(table)
        doubtful = [chunk for chunk in table if chunk.id in lease.condemned]
        block = anonymous(frame.BLOCK_SIZE)
        try:
            for chunk in dict.fromkeys(doubtful):
                # The same bytes once more: a prune takes only what was stored before they were condemned.
                self._store.write(keys.chunk(chunk.id), self._read(chunk, block))
        except ObjectNotFoundError as error:
            raise DeadlinePassedError(f"the snapshot took too long: {error.message}") from error
        self._settle(doubtful, lease)
        return lease

    def _read(self, chunk: Chunk, block: memoryview) -> bytes:
        """Returns the object of a chunk, verified: an answer that came damaged must not be stored under its id."""
        problem = ""
        for _ in range(READ_ATTEMPTS):
            self._crew.check()
            stored = self._store.read(keys.chunk(chunk.id), 0, chunk.stored_size)
            try:
                check_chunk(memoryview(stored), chunk, block)
            except DataLossError as error:
                problem = error.message
            else:
                return stored
        name = chunk.id.hex()
        raise DataLossError(
            f"the snapshot took so long that chunk {name} must be stored once more, and it is damaged: {problem}",
            damaged=(DamagedChunk(name, problem),),
            hint="repeat the snapshot: it stores the chunk anew",
        )

    def _settle(self, uploaded: Sequence[Chunk], lease: Lease) -> None:
        """Makes sure that no delete was under way when chunks were uploaded that prunes may delete.

        A record is worked off once it is older than the grace. Then deletes by it may have been under way: this waits
        until they are over, and looks.
        """
        doubtful = [chunk for chunk in uploaded if chunk.id in lease.condemned]
        if not doubtful:
            return
        now = read_clock(self._store)
        doubtful = [chunk for chunk in doubtful if now - lease.condemned[chunk.id] >= self._grace.seconds - 1]
        if not doubtful:
            return
        end = time.monotonic() + self._grace.settle
        while time.monotonic() < end:
            self._crew.check()
            time.sleep(POLL_SECONDS)
        self._demand(doubtful)

    def _demand(self, chunks: Sequence[Chunk]) -> None:
        faults = find_faults(self._store, set(chunks), lambda _: self._crew.check())
        if faults:
            first = faults[0].chunk.id.hex()
            raise DeadlinePassedError(
                f"the snapshot took so long that {len(faults):,} of its chunks were pruned meanwhile, such as {first}"
            )

    def _write_chunk_list(self, path: str, table: Sequence[Chunk]) -> None:
        with open(path, "x", encoding="utf-8") as file:
            for chunk in table:
                key = keys.chunk(chunk.id)
                file.write(f"{self._prefix}/{key}\n" if self._prefix else f"{key}\n")
