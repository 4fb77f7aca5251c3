"""Chunks that interrupted snapshots have stored, found by a listing while the next snapshot is being made."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Container

from agent.pipeline.crew import POLL_SECONDS, Crew
from agent.repository import keys
from agent.repository.frame import max_stored_size
from agent.snapshot.interrupted import YOUNG_SECONDS
from agent.storage.store import ObjectInfo, Store

LISTED_AT_ONCE = 1000
"""Objects that a store lists with one request (S3's own limit)."""

LISTING_SECONDS = 20.0
"""How long the listing may take; what it has not come to by then is uploaded again."""

FOUND_CHUNKS = 1 << 17
"""Chunks that are remembered, about 200 bytes each; with packs of 16 MiB they are 2 TiB."""

_BEHIND_ALL = b"\xff" * 33


class FoundChunks:
    """Young chunks in the store, whether a manifest names them or not. For any thread.

    Keys are listed in the order of ids, so what the listing has passed is known before it ends. All is listed twice at
    the same time, and what does not show the same size in both does not count: over plain http a bit may flip in one,
    and a manifest with a wrong size cannot be restored.

    Args:
        store: the repository's.
        now_s: its clock.
        condemned: chunks that a prune may be about to delete.
    """

    def __init__(self, store: Store, now_s: int, condemned: Container[bytes], crew: Crew) -> None:
        self._store = store
        self._youngest_s = now_s - YOUNG_SECONDS
        self._condemned = condemned
        self._crew = crew
        self._changed = threading.Condition()
        self._seen_once: dict[bytes, int] = {}
        self._sizes: dict[bytes, int] = {}
        self._passed = b""
        self._ended = False

    def run(self) -> None:
        """Lists the chunks.

        Raises:
            GpusnapError: the store cannot be listed, or the crew stops.
        """
        deadline = time.monotonic() + LISTING_SECONDS
        listings = [self._store.list(keys.CHUNKS), self._store.list(keys.CHUNKS)]
        passed = [b""] * len(listings)
        try:
            while len(self._sizes) < FOUND_CHUNKS and time.monotonic() < deadline:
                self._crew.check()
                pages = [list(itertools.islice(listing, LISTED_AT_ONCE)) for listing in listings]
                if not any(pages):
                    break
                for number, page in enumerate(pages):
                    last = keys.chunk_id(page[-1].key) if page else _BEHIND_ALL
                    passed[number] = last or passed[number]
                with self._changed:
                    for item in itertools.chain(*pages):
                        self._see(item)
                    self._passed = min(passed)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _see(self, item: ObjectInfo) -> None:
        chunk_id = keys.chunk_id(item.key)
        if chunk_id is None or chunk_id in self._condemned or item.modified_s <= self._youngest_s:
            return
        before = self._seen_once.pop(chunk_id, None)
        if before is None:
            self._seen_once[chunk_id] = item.size
        elif before == item.size:
            self._sizes[chunk_id] = item.size

    def size(self, chunk_id: bytes, raw_size: int) -> int | None:
        """Returns the stored size of a chunk, or ``None`` if it was not found; waits until the listing has passed it.

        Raises:
            CancelledError: the crew stops.
        """
        with self._changed:
            while not self._ended and chunk_id > self._passed:
                self._crew.check()
                self._changed.wait(POLL_SECONDS)
            size = self._sizes.get(chunk_id)
        # What no chunk of these bytes can be was cut off, or is somebody else's: it is stored again.
        return size if size is not None and 0 < size <= max_stored_size(raw_size) else None
