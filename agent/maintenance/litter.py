"""What interrupted operations left in a repository, besides chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from agent.maintenance.in_time import delete_in_time
from agent.maintenance.survey import Survey
from agent.repository import keys
from agent.repository.grace import Grace
from agent.repository.presence import is_there
from agent.storage.check import CHECK_PREFIX
from agent.storage.clock import CLOCK
from agent.storage.store import Deadline, Store

BENCHMARK = "benchmark/"
"""Where a benchmark keeps its objects while it runs."""

SHORT_LIVED = (CLOCK, BENCHMARK, CHECK_PREFIX, keys.RUNNING)
"""Beginnings of keys that no operation keeps for long."""


class Litter(msgspec.Struct, frozen=True):
    """An object that nobody uses any more, by its key; while there is an object ``unless`` (if any), it is used."""

    key: str
    unless: str = ""


def find_litter(store: Store, found: Survey, grace: Grace, now: int) -> list[Litter]:
    """Returns what nobody uses any more by a listing, in the order in which it is to be deleted.

    Args:
        found: a survey that was made after ``now``.
        now: the store's clock.
    """
    old = [
        Litter(keys.chunk_list(snapshot_id), unless=keys.manifest(snapshot_id))
        for snapshot_id, item in found.unfinished.items()
        if now - item.modified_s >= grace.age
    ]
    for prefix in SHORT_LIVED:
        old += [Litter(item.key) for item in store.list(prefix) if now - item.modified_s >= grace.age]
    # Tombstones last: they say what was deleted for as long as anything of it may be there.
    old += [Litter(keys.tombstone(item.snapshot_id)) for item in found.tombstones if now - item.deleted_s >= grace.age]
    return old


def delete_litter(store: Store, litter: Sequence[Litter], grace: Grace, now: int, check: Callable[[], None]) -> int:
    """Deletes litter after a second look at each object: a bit that flips in a listing changes a key, or a time.

    Args:
        now: the store's clock at which it was old enough.
        check: called between steps; may raise to stop.

    Returns:
        How many objects were deleted.

    Raises:
        DeadlinePassedError: the store is so slow that every delete comes too late.
        GpusnapError: the store fails.
    """
    deleted: list[Litter] = []

    def delete(deadline: Deadline, item: Litter) -> None:
        check()
        is_used = item.unless and is_there(store, item.unless)
        if not is_used and store.delete_if_older(item.key, now - grace.age + 1, deadline) is not None:
            deleted.append(item)

    delete_in_time(store, grace, litter, delete, check)
    return len(deleted)
