"""What interrupted operations left in a repository, besides chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from agent.errors import DeadlinePassedError
from agent.maintenance.survey import Survey
from agent.repository import keys
from agent.repository.grace import Grace
from agent.repository.presence import is_there
from agent.storage.check import CHECK_PREFIX
from agent.storage.clock import CLOCK, read_clock
from agent.storage.store import Deadline, Store

BENCHMARK = "benchmark/"
"""Where a benchmark keeps its objects while it runs."""

SHORT_LIVED = (CLOCK, BENCHMARK, CHECK_PREFIX, keys.RUNNING)
"""Beginnings of keys that no operation keeps for long."""

DELETED_AT_ONCE = 8
"""Deletes that wait for the store at the same time."""

BATCH = 128
"""Objects that are deleted under one deadline."""


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

    What it does not manage to delete in time is for the next prune.

    Args:
        now: the store's clock at which it was old enough.
        check: called between steps; may raise to stop.

    Returns:
        How many objects were deleted.
    """
    deleted = 0
    with ThreadPoolExecutor(DELETED_AT_ONCE, thread_name_prefix="delete") as pool:
        for start in range(0, len(litter), BATCH):
            deadline = Deadline(read_clock(store), grace.delete)
            delete = functools.partial(_delete, store, now - grace.age + 1, deadline, check)
            deleted += sum(pool.map(delete, litter[start : start + BATCH]))
    return deleted


def _delete(store: Store, than_s: int, deadline: Deadline, check: Callable[[], None], item: Litter) -> bool:
    check()
    if item.unless and is_there(store, item.unless):
        return False
    try:
        return store.delete_if_older(item.key, than_s, deadline) is not None
    except DeadlinePassedError:
        return False
