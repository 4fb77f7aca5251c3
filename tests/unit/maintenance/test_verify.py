"""What a verification says of a repository whose listings come with a flipped bit."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from agent.config.model import Provider, StorageConfig
from agent.events import PipelineEvent, WarningRaised
from agent.maintenance import verify
from agent.maintenance.request import VerifyRequest
from agent.repository import keys
from agent.repository.repository import Repository
from tests.support import forging
from tests.support.virtual_store import Objects, VirtualStore

CONTENT = b"x" * 512


def verified(objects: Objects) -> set[str]:
    """Verifies all snapshots; returns the reasons of warnings."""
    events: list[PipelineEvent] = []
    request = VerifyRequest("", False, 0, "", StorageConfig(Provider.LOCAL, endpoint="/nowhere"))
    verify._Verification(request, Repository(VirtualStore(objects)), events.append, threading.Event()).run()
    return {event.reason for event in events if isinstance(event, WarningRaised)}


@pytest.mark.parametrize("what", ["a chunk", "a list of chunks", "nothing"])
def test_a_bit_that_flips_in_a_listing_hides_nothing(tmp_path: Path, what: str) -> None:
    objects = Objects()
    store = VirtualStore(objects)
    Repository(store).ensure()
    table = [forging.chunk(CONTENT), forging.chunk(CONTENT[1:])]
    for raw in (CONTENT, CONTENT[1:]):
        store.write(keys.chunk(forging.chunk(raw).id), forging.frame(raw))
    chunk_list = keys.chunk_list(forging.SNAPSHOT_ID)
    store.write(chunk_list, b"")
    store.write(
        keys.manifest(forging.SNAPSHOT_ID), forging.manifest(tmp_path / "manifest", [forging.directory(b"")], table)
    )
    hidden = {"a chunk": keys.chunk(table[1].id), "a list of chunks": chunk_list}.get(what)
    if hidden is not None:
        objects.listed_as[hidden] = msgspec.structs.replace(store.head(hidden), key=hidden[:-1] + "~")
    assert verified(objects) == set()
    store.delete(chunk_list)
    assert verified(objects) == {"CHUNK_LIST_MISSING"}
