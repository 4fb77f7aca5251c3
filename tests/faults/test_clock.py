"""The clock of an agent's machine jumps by a day: nothing hangs, no wrong prune, and the newest snapshot is latest."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import msgspec
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.events import Direction, Measurement
from agent.operations.measured import MeasuredStores
from agent.storage.choice import S5CMD, STREAM
from tests.faults.invariants import Kind, Outcome, Scene
from tests.faults.system import ENGINES, FEWEST_REQUESTS, Moment, scene_behind, stopped_agent
from tests.support.clocks import FalseClock
from tests.support.daemon import Daemon
from tests.support.proxy import Fault, Proxy, answer
from tests.support.rpc import SECONDS, connected
from tests.support.seaweed import SeaweedServer

DAY = 86_400

SLACK = 600
"""Seconds by which times of snapshots may differ from those of this test."""

one_engine = pytest.mark.parametrize("machine", ["stream"], indirect=True)
"""For what has nothing to do with the engine."""

jumps = pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "back"])


class Machine:
    """An agent with a clock of its own."""

    def __init__(self, daemon: Daemon, clock: FalseClock) -> None:
        self.daemon = daemon
        self.clock = clock


@pytest.fixture(scope="module", params=ENGINES)
def machine(
    request: pytest.FixtureRequest, seaweed: SeaweedServer, proxy: Proxy, module_bucket: str
) -> Iterator[Machine]:
    with stopped_agent(seaweed, request.param) as daemon:
        asyncio.run(prefer_s5cmd(daemon, seaweed, proxy, module_bucket))
        folder = daemon.folder / "clock"
        folder.mkdir()
        clock = FalseClock(folder)
        daemon.environ |= clock.environ
        daemon.start()
        yield Machine(daemon, clock)


async def prefer_s5cmd(daemon: Daemon, seaweed: SeaweedServer, proxy: Proxy, bucket: str) -> None:
    """Lets ``auto`` begin with s5cmd: it was the faster with this store before."""
    daemon.state_dir.mkdir()
    measured = MeasuredStores(str(daemon.state_dir))
    store = msgspec.structs.replace(seaweed.storage_config(bucket, ""), endpoint=proxy.endpoint)
    speeds = [Measurement(S5CMD, way, 2e9, time.time_ns()) for way in Direction]
    speeds += [Measurement(STREAM, way, 1e9, time.time_ns()) for way in Direction]
    measured.take(store, speeds, "")
    await measured.save()


@pytest.fixture
def scene(machine: Machine, proxy: Proxy, module_bucket: str) -> Iterator[Scene]:
    with scene_behind(proxy, machine.daemon, module_bucket) as made:
        yield made
        machine.clock.set(0)


def save(scene: Scene) -> pb.Snapshot:
    """Saves the workspace and returns the newest snapshot then."""
    outcome = scene.run(Kind.SNAPSHOT)
    assert outcome.succeeded, outcome.end
    with connected(scene.daemon.address) as stub:
        found = stub.GetSnapshot(pb.GetSnapshotRequest(storage=scene.storage, snapshot="latest"), timeout=SECONDS)
    assert found.snapshot.id == outcome.end.result.snapshot_id
    return found.snapshot


def is_now(snapshot: pb.Snapshot) -> None:
    """Checks that a snapshot was made just now, whatever its machine thinks."""
    in_id = datetime.strptime(snapshot.id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
    for seconds in (in_id, snapshot.start_time.seconds, snapshot.commit_time.seconds):
        assert abs(seconds - time.time()) < SLACK


@one_engine
@jumps
def test_the_newest_is_latest_before_and_after_a_jump(machine: Machine, scene: Scene, jump: int) -> None:
    before = save(scene)
    machine.clock.set(jump)
    (scene.workspace / "code/later").write_text("later")
    after = save(scene)
    machine.clock.set(0)
    (scene.workspace / "code/latest").write_text("latest")
    last = save(scene)
    for snapshot in (before, after, last):
        is_now(snapshot)
    assert scene.listed() == [last.id, after.id, before.id]
    assert last.parent == after.id
    assert after.parent == before.id


@jumps
@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_a_jump_in_the_middle(
    machine: Machine, scene: Scene, proxy: Proxy, kind: Kind, jump: int, chance: random.Random
) -> None:
    scene.prepare(kind)
    proxy.script = Moment(chance.randrange(FEWEST_REQUESTS), lambda: machine.clock.set(jump))
    outcome = scene.run(kind)
    proxy.script = lambda seen: None
    assert outcome.succeeded, outcome.end
    scene.check(outcome)
    machine.clock.set(0)
    scene.recovers(kind, outcome)


@one_engine
@jumps
def test_prunes_with_a_wrong_clock(
    machine: Machine, scene: Scene, proxy: Proxy, jump: int, chance: random.Random
) -> None:
    kept = [save(scene).id]
    machine.clock.set(jump)
    kept.append(save(scene).id)
    request = pb.PruneRequest(storage=scene.storage, keep_within_seconds=SLACK)
    with connected(machine.daemon.address) as stub:
        gone = save(scene).id
        stub.DeleteSnapshot(pb.DeleteSnapshotRequest(storage=scene.storage, snapshot=gone), timeout=SECONDS)
        for wrong_by in (0, jump, -jump):
            proxy.script = Moment(chance.randrange(20), functools.partial(machine.clock.set, wrong_by))
            outcome = Outcome([response.event for response in stub.Prune(request, timeout=SECONDS)])
            assert outcome.succeeded, outcome.end
            report = outcome.end.result.prune
            assert (report.kept, report.removed, report.freed.chunks) == (2, 0, 0)
    proxy.script = lambda seen: None
    assert sorted(scene.listed()) == sorted(kept)
    machine.clock.set(0)
    scene.recovers(Kind.SNAPSHOT, outcome)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
@pytest.mark.parametrize("machine", [*ENGINES, "auto"], indirect=True)
def test_an_s5cmd_with_a_wrong_clock(machine: Machine, scene: Scene, proxy: Proxy, kind: Kind) -> None:
    """Only at the socket: s5cmd asks the kernel itself what time it is."""
    scene.prepare(kind)
    machine.clock.set(DAY)
    text = "<Error><Code>RequestTimeTooSkewed</Code><Message>too large a difference</Message></Error>"
    refusal = Fault(answer=answer(403, text))
    proxy.script = lambda seen: None if seen.headers["user-agent"].startswith("gpusnap") else refusal
    outcome = scene.run(kind)
    proxy.script = lambda seen: None
    scene.check(outcome)
    engine = machine.daemon.environ["GPUSNAP_TRANSFER__ENGINE"]
    if engine == "s5cmd":
        assert outcome.reason == "ENGINE_UNAVAILABLE"
        assert "RequestTimeTooSkewed" in outcome.end.error.message
        assert "clock" in outcome.end.error.hint
    else:
        assert outcome.succeeded, outcome.end
        assert outcome.end.result.engine == "stream"
        assert ("RequestTimeTooSkewed" in outcome.end.result.engine_reason) == (engine == "auto")
    machine.clock.set(0)
    scene.recovers(kind, outcome)


@one_engine
def test_keys_that_are_wrong_as_well_as_the_clock(machine: Machine, scene: Scene) -> None:
    scene.prepare(Kind.RESTORE)
    machine.clock.set(DAY)
    assert scene.storage is not None
    scene.storage.credentials.access_key_id = "nobody"
    scene.storage.credentials.secret_access_key = "nothing"
    outcome = scene.run(Kind.RESTORE)
    scene.check(outcome)
    assert outcome.reason == "STORAGE_ACCESS_DENIED"
    scene.storage.ClearField("credentials")
    scene.recovers(Kind.RESTORE, outcome)
