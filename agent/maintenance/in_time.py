"""Deletes many objects, each by a request that the store refuses after a deadline."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agent.errors import DeadlinePassedError
from agent.repository.grace import Grace
from agent.storage.clock import read_clock
from agent.storage.store import Deadline, Store

DELETED_AT_ONCE = 16
"""Deletes that wait for the store at the same time."""

BATCH = 128
"""Objects that are deleted under one deadline: many enough that asking for the time costs little."""

ATTEMPTS = 20
"""Batches without a single delete in time before it is given up."""

_T = TypeVar("_T")


def delete_in_time(
    store: Store,
    grace: Grace,
    items: Sequence[_T],
    delete: Callable[[Deadline, _T], None],
    check: Callable[[], None],
    is_wanted: Callable[[], bool] = lambda: True,
) -> bool:
    """Deletes items batch by batch; what comes too late is tried again under another deadline.

    Args:
        delete: deletes one item before a deadline, or raises DeadlinePassedError.
        check: called between steps; may raise to stop.
        is_wanted: asked before each batch, once its deadline has begun.

    Returns:
        Whether it came to the end; no if it was not wanted any more.

    Raises:
        DeadlinePassedError: the store is so slow that every delete comes too late.
        GpusnapError: the store fails.
    """
    left = list(items)
    futile = 0
    with ThreadPoolExecutor(DELETED_AT_ONCE, thread_name_prefix="delete") as pool:
        while left:
            check()
            # Whatever is asked next is asked after the deadline has begun, so that it holds for all the time before.
            deadline = Deadline(read_clock(store), grace.delete)
            if not is_wanted():
                return False
            batch, left = left[:BATCH], left[BATCH:]
            is_late = list(pool.map(functools.partial(_is_late, delete, deadline), batch))
            late = [item for item, missed in zip(batch, is_late, strict=True) if missed]
            futile = futile + 1 if len(late) == len(batch) else 0
            if futile == ATTEMPTS:
                raise DeadlinePassedError(f"{store.location} is too slow to delete anything in time")
            left = late + left
    return True


def _is_late(delete: Callable[[Deadline, _T], None], deadline: Deadline, item: _T) -> bool:
    try:
        delete(deadline, item)
    except DeadlinePassedError:
        return True
    return False
