"""What interrupted operations left in a repository, besides chunks."""

from __future__ import annotations

from agent.maintenance.survey import Survey
from agent.repository import keys
from agent.repository.grace import Grace
from agent.storage.check import CHECK_PREFIX
from agent.storage.clock import CLOCK
from agent.storage.store import Store

BENCHMARK = "benchmark/"
"""Where a benchmark keeps its objects while it runs."""

SHORT_LIVED = (CLOCK, BENCHMARK, CHECK_PREFIX, keys.RUNNING)
"""Beginnings of keys that no operation keeps for long."""


def find_litter(store: Store, found: Survey, grace: Grace, now: int) -> list[str]:
    """Returns the keys of objects that nobody uses any more, in the order in which they are to be deleted.

    Args:
        found: a survey that was made after ``now``.
        now: the store's clock.
    """
    old = [item.key for item in found.unfinished if now - item.modified_s >= grace.age]
    for prefix in SHORT_LIVED:
        old += [item.key for item in store.list(prefix) if now - item.modified_s >= grace.age]
    # Tombstones last: they say what was deleted for as long as anything of it may be there.
    old += [keys.tombstone(item.snapshot_id) for item in found.tombstones if now - item.deleted_s >= grace.age]
    return old
