"""What interrupted snapshots have stored, by listings in which a bit may flip."""

from __future__ import annotations

import threading

import msgspec
import pytest

from agent.pipeline.crew import Crew
from agent.repository import keys
from agent.snapshot import found as found_module
from agent.snapshot.found import FoundChunks
from tests.support import forging
from tests.support.virtual_store import PAGE, Objects, VirtualStore

COUNT = 3 * PAGE + 1
RAW = [bytes([number]) * 700 for number in range(COUNT)]
CHUNKS = sorted((forging.chunk(raw) for raw in RAW), key=lambda chunk: chunk.id)


@pytest.mark.parametrize("page", [2, PAGE, 1000])
@pytest.mark.parametrize("which", range(COUNT))
@pytest.mark.parametrize("changed", ["size", "key"])
def test_a_size_that_only_one_listing_shows_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, page: int, which: int, changed: str
) -> None:
    monkeypatch.setattr(found_module, "LISTED_AT_ONCE", page)
    objects = Objects()
    store = VirtualStore(objects)
    for chunk in CHUNKS:
        store.write(keys.chunk(chunk.id), bytes(chunk.stored_size))
    key = keys.chunk(CHUNKS[which].id)
    shown = store.head(key)
    shown = msgspec.structs.replace(shown, size=shown.size - 1) if changed == "size" else shown
    shown = msgspec.structs.replace(shown, key=key[:-1] + "~") if changed == "key" else shown
    # Only one of the listings comes with the flipped bit, whichever comes first.
    lists = iter(range(COUNT * 4))
    flips = {which // PAGE}

    def turn(request: str) -> None:
        objects.listed_as.clear()
        if request == f"list {keys.CHUNKS}" and next(lists) in flips:
            objects.listed_as[key] = shown

    found = FoundChunks(VirtualStore(objects, turn), int(objects.now), {}, Crew(threading.Event()))
    found.run()
    sizes = {chunk.id: found.size(chunk.id, chunk.raw_size) for chunk in CHUNKS}
    for chunk in CHUNKS:
        assert sizes[chunk.id] == chunk.stored_size or (chunk is CHUNKS[which] and sizes[chunk.id] is None)
