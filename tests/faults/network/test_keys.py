"""Keys are revoked while operations run, as short-lived ones expire: repeated with valid ones, they succeed."""

from __future__ import annotations

import pytest

from agent.config.model import Credentials
from tests.faults.invariants import Kind, Outcome
from tests.faults.network.conftest import MakeScene
from tests.faults.network.troubles import CHUNKS
from tests.faults.system import Moment
from tests.support.half_done import with_new_keys
from tests.support.proxy import Fault, Proxy, Seen
from tests.support.seaweed import SeaweedServer

PASSED = 3
"""Requests for chunks that come before the keys are revoked."""


def moved(outcome: Outcome) -> set[str]:
    finished = [event.chunk_finished for event in outcome.events if event.HasField("chunk_finished")]
    return {chunk.chunk_id for chunk in finished if not chunk.reused}


@pytest.mark.parametrize("kind", Kind)
def test_keys_are_rotated(make_scene: MakeScene, proxy: Proxy, seaweed: SeaweedServer, kind: Kind) -> None:
    scene = make_scene(kind)
    assert scene.storage is not None
    scene.storage = with_new_keys(scene.storage, seaweed)
    keys = Credentials(scene.storage.credentials.access_key_id, "")
    revoke = Moment(PASSED, lambda: seaweed.revoke(keys))

    def script(seen: Seen) -> Fault | None:
        return revoke(seen) if CHUNKS in seen.path else None

    proxy.script = script
    outcome = scene.run(kind)
    proxy.script = lambda seen: None
    assert revoke.has_come.is_set()
    scene.check(outcome)
    assert outcome.reason == "STORAGE_ACCESS_DENIED", outcome.end
    scene.storage = with_new_keys(scene.storage, seaweed)
    again = scene.run(kind)
    assert again.succeeded, again.end
    assert not moved(outcome) & moved(again)
    scene.recovers(kind, again)
