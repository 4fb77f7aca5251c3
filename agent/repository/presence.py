"""Finds out which chunks are in the store, with as few requests as that takes."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import msgspec

from agent.errors import ObjectNotFoundError
from agent.repository import keys
from agent.repository.model import Chunk
from agent.storage.store import Store

LISTED_AT_ONCE = 1000
"""Objects that a store lists with one request (S3's own limit)."""

ASKED_AT_ONCE = 16
"""Objects that are asked for at the same time."""

MISSING = "its object is missing in the store"

_ID_SPACE = 1 << 256


class Fault(msgspec.Struct, frozen=True):
    """A chunk that is not in the store as it was stored, and what is wrong with it."""

    chunk: Chunk
    problem: str


def is_there(store: Store, key: str) -> bool:
    """Says whether there is an object; asks the store now.

    Raises:
        GpusnapError: the store cannot be asked.
    """
    try:
        store.head(key)
    except ObjectNotFoundError:
        return False
    return True


def find_faults(store: Store, chunks: Collection[Chunk], seen: Callable[[int], None]) -> list[Fault]:
    """Returns which of these chunks are missing or have another size than was stored. Reads no chunk, writes nothing.

    Ids are spread evenly, so the first page of a listing tells how many pages there are: what takes fewer requests is
    done, the rest of the listing or a question for each chunk. What a listing says against a few chunks each is asked
    about once more: over plain http a bit may flip in it.

    Args:
        store: where they should be.
        chunks: what should be there.
        seen: called with the number of chunks that were just looked at; may raise to stop.

    Raises:
        GpusnapError: the store cannot be listed or asked.
    """
    wanted = sorted(((keys.chunk(chunk.id), chunk) for chunk in chunks), key=operator.itemgetter(0))
    if len(wanted) < 2:
        return _ask(store, [chunk for _, chunk in wanted], seen)
    listed_faults: list[Fault] = []
    asked_faults: list[Fault] = []
    listing = store.list(keys.CHUNKS)
    place = 0
    for pages in itertools.count(1):
        listed = {found.key: found.size for found in itertools.islice(listing, LISTED_AT_ONCE)}
        is_last = len(listed) < LISTED_AT_ONCE
        last = next(reversed(listed), "")
        begin = place
        while place < len(wanted) and (is_last or wanted[place][0] <= last):
            key, chunk = wanted[place]
            listed_faults += _compare(chunk, listed.get(key))
            place += 1
        seen(place - begin)
        if is_last:
            break
        if len(wanted) - place < pages * _left_by(last):
            asked_faults = _ask(store, [chunk for _, chunk in wanted[place:]], seen)
            break
    # One flipped bit cannot hide more than a page.
    if len(listed_faults) <= LISTED_AT_ONCE:
        listed_faults = _ask(store, [fault.chunk for fault in listed_faults], lambda _: seen(0))
    return listed_faults + asked_faults


def _left_by(last: str) -> float:
    """Returns how much of all chunks a listing has before it that has come to the key ``last``, by what is behind."""
    try:
        share = (int(last.rpartition("/")[2], 16) + 1) / _ID_SPACE
    except ValueError:
        return 0.0  # not the key of a chunk: it tells nothing, so the listing goes on
    return (1 - share) / share


def _ask(store: Store, chunks: Collection[Chunk], seen: Callable[[int], None]) -> list[Fault]:
    def size(chunk: Chunk) -> int | None:
        try:
            return store.head(keys.chunk(chunk.id)).size
        except ObjectNotFoundError:
            return None

    faults: list[Fault] = []
    with ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="ask") as pool:
        try:
            for chunk, found in zip(chunks, pool.map(size, chunks), strict=True):
                faults += _compare(chunk, found)
                seen(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return faults


def _compare(chunk: Chunk, size: int | None) -> list[Fault]:
    if size is None:
        return [Fault(chunk, MISSING)]
    if size != chunk.stored_size:
        return [Fault(chunk, f"its object has {size:,} bytes and not the {chunk.stored_size:,} that were stored")]
    return []
