"""The store is killed while operations run: they go on once it is back, or say in time that it is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.config.model import TransferConfig
from tests.faults.invariants import Kind, Outcome
from tests.faults.network.conftest import Agents, MakeScene
from tests.support.daemon import Daemon
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import connected
from tests.support.seaweed import SeaweedServer

STUBBORN_SECONDS = 90.0
"""Longer than the store takes to start on a slow machine."""

OUTAGE_SECONDS = 60.0
"""An outage that operations survive as agents are configured unless told otherwise."""

SLOW = Fault(piece_seconds=0.1)
"""A link over which a large chunk takes more than a second."""


def until_chunk(events: Iterator[pb.Event]) -> list[pb.Event]:
    """Follows an operation until the first chunk is done."""
    seen = []
    for event in events:
        seen.append(event)
        if event.HasField("chunk_finished"):
            return seen
    raise AssertionError(f"it ended before: {seen[-1]}")


@pytest.mark.parametrize("kind", Kind)
def test_the_store_is_gone_for_a_while(
    make_scene: MakeScene, agents: Agents, patient: Daemon, proxy: Proxy, seaweed: SeaweedServer, kind: Kind
) -> None:
    stubborn = agents(STUBBORN_SECONDS)
    surviving, failing = make_scene(kind), make_scene(kind)
    proxy.script = lambda seen: SLOW
    with connected(stubborn.address) as stub, connected(patient.address) as other:
        going_on = surviving.begin(stub, surviving.request(kind))
        giving_up = failing.begin(other, failing.request(kind))
        before = until_chunk(going_on)
        failed = until_chunk(giving_up)
        assert not before[-1].HasField("completed")
        seaweed.kill()
        proxy.script = lambda seen: None
        failed += giving_up
        seaweed.start()
        survived = Outcome([*before, *going_on])
    failing.check(Outcome(failed))
    assert Outcome(failed).reason == "STORAGE_UNAVAILABLE"
    assert Outcome(failed).end.error.retryable
    surviving.check(survived, agent=stubborn)
    assert survived.succeeded, survived.end
    surviving.recovers(kind, survived)
    failing.recovers(kind, Outcome(failed))


def test_the_store_is_gone_for_a_minute(
    make_scene: MakeScene, agents: Agents, proxy: Proxy, seaweed: SeaweedServer
) -> None:
    usual = agents(TransferConfig().retry_seconds)
    scenes = {kind: make_scene(kind) for kind in Kind}
    proxy.script = lambda seen: SLOW
    with connected(usual.address) as stub:
        running = {kind: scene.begin(stub, scene.request(kind)) for kind, scene in scenes.items()}
        before = {kind: until_chunk(events) for kind, events in running.items()}
        proxy.down()
        seaweed.kill()
        end = time.monotonic() + OUTAGE_SECONDS
        # However long it takes to start, it is back for its agents when the minute is over.
        seaweed.start()
        wait_until(lambda: time.monotonic() >= end, "the end of the outage", 2 * OUTAGE_SECONDS)
        proxy.script = lambda seen: None
        proxy.up()
        survived = {kind: Outcome([*before[kind], *events]) for kind, events in running.items()}
    for kind, scene in scenes.items():
        scene.check(survived[kind], agent=usual)
        assert survived[kind].succeeded, survived[kind].end
        scene.recovers(kind, survived[kind])
