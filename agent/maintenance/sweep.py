"""Deletes condemned chunks that are still not needed. FORMAT.md, "Pruning", has the rules and why they suffice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from agent.errors import DeadlinePassedError
from agent.repository import condemned, keys
from agent.repository.condemned import Record
from agent.repository.grace import Grace
from agent.storage.clock import read_clock
from agent.storage.store import Deadline, Store

DELETED_AT_ONCE = 16
"""Deletes that wait for the store at the same time."""

BATCH = 128
"""Chunks that are deleted under one deadline: many enough that asking for the time costs little."""

ATTEMPTS = 20
"""Batches without a single delete in time before it is given up."""


class Due(msgspec.Struct, frozen=True):
    """A chunk that a record condemns and that is not needed: its id, and its size as it was listed."""

    chunk: bytes
    size: int


class Sweep:
    """Deletes what one record condemns.

    Args:
        record: older than the grace before the manifests were read.
        deleted: called for each chunk that was deleted.
        check: called between steps; may raise to stop.
    """

    def __init__(
        self, store: Store, record: Record, grace: Grace, deleted: Callable[[Due], None], check: Callable[[], None]
    ) -> None:
        self._store = store
        self._record = record
        self._grace = grace
        self._deleted = deleted
        self._check = check

    def run(self, due: Sequence[Due]) -> None:
        """Deletes chunks and marks the record as worked off; stops when another prune did that.

        Args:
            due: what the record condemns and nobody needs, by manifests that were read since it was old enough.

        Raises:
            DeadlinePassedError: the store is so slow that every delete comes too late.
            GpusnapError: the store fails.
        """
        left = list(due)
        futile = 0
        with ThreadPoolExecutor(DELETED_AT_ONCE, thread_name_prefix="delete") as pool:
            while left:
                self._check()
                # The time before the look at the record: so the deletes are over before the record can be gone, and
                # whoever does not see it any more need not fear them.
                deadline = Deadline(read_clock(self._store), self._grace.delete)
                if not condemned.is_open(self._store, self._record):
                    return
                batch, left = left[:BATCH], left[BATCH:]
                late = [item for item in pool.map(functools.partial(self._delete, deadline), batch) if item is not None]
                futile = futile + 1 if len(late) == len(batch) else 0
                if futile == ATTEMPTS:
                    raise DeadlinePassedError(f"{self._store.location} is too slow to delete anything in time")
                left = late + left
        condemned.mark_done(self._store, self._record)

    def _delete(self, deadline: Deadline, item: Due) -> Due | None:
        """Deletes one chunk; returns it if it was too late for that."""
        try:
            if self._store.delete_if_older(keys.chunk(item.chunk), self._record.written_s, deadline) is not None:
                self._deleted(item)
        except DeadlinePassedError:
            return item
        return None
