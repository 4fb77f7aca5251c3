"""Deletes condemned chunks that are still not needed. FORMAT.md, "Pruning", has the rules and why they suffice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from agent.maintenance.in_time import delete_in_time
from agent.repository import condemned, keys
from agent.repository.condemned import Record
from agent.repository.grace import Grace
from agent.storage.store import Deadline, Store


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
        # It looks at the record once the deadline has begun: so the deletes are over before the record can be gone,
        # and whoever does not see it any more need not fear them.
        if delete_in_time(self._store, self._grace, due, self._delete, self._check, self._is_open):
            condemned.mark_done(self._store, self._record)

    def _is_open(self) -> bool:
        return condemned.is_open(self._store, self._record)

    def _delete(self, deadline: Deadline, item: Due) -> None:
        if self._store.delete_if_older(keys.chunk(item.chunk), self._record.written_s, deadline) is not None:
            self._deleted(item)
