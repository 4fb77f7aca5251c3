"""Two snapshots, and two restores, of the same workspace at once: one agent refuses the second, two agents do both."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from tests.faults.invariants import Kind, Scene
from tests.faults.system import ENGINES, FEWEST_REQUESTS, Victim, running_agent, scene_behind, sent
from tests.support.daemon import Daemon
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import SECONDS, connected, error_info
from tests.support.seaweed import SeaweedServer


@pytest.fixture(scope="module", params=ENGINES)
def agent(request: pytest.FixtureRequest, seaweed: SeaweedServer) -> Iterator[Daemon]:
    with running_agent(seaweed, request.param) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def other(agent: Daemon, seaweed: SeaweedServer) -> Iterator[Daemon]:
    """Another agent that may save the same workspaces, with the same engine."""
    engine = agent.environ["GPUSNAP_TRANSFER__ENGINE"]
    with running_agent(seaweed, engine, GPUSNAP_AGENT__WORKSPACE_ROOTS=str(agent.workspace_root)) as daemon:
        yield daemon


@pytest.fixture
def scene(agent: Daemon, proxy: Proxy, module_bucket: str) -> Iterator[Scene]:
    with scene_behind(proxy, agent, module_bucket) as made:
        yield made


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_one_agent(agent: Daemon, scene: Scene, proxy: Proxy, kind: Kind, chance: random.Random) -> None:
    scene.prepare(kind)
    scene.target.mkdir()
    proxy.held.clear()
    proxy.released.clear()
    number = iter(range(1000))
    first_held = chance.randrange(FEWEST_REQUESTS)
    proxy.script = lambda seen: Fault(is_held=True) if next(number) >= first_held else None
    with connected(agent.address) as stub:
        events = scene.begin(stub, scene.request(kind))
        begun = [next(events)]
        assert proxy.held.wait(SECONDS)
        # A restore into the workspace that is saved, and a snapshot of the target, are refused as well.
        for second in Kind:
            request = scene.request(second, target=scene.workspace if kind is Kind.SNAPSHOT else None)
            if kind is Kind.RESTORE and isinstance(request, pb.SnapshotRequest):
                request.workspace = str(scene.target)
            with pytest.raises(grpc.RpcError) as raised:
                list(scene.begin(stub, request))
            assert isinstance(raised.value, grpc.Call)
            assert raised.value.code() is grpc.StatusCode.ABORTED
            info = error_info(raised.value)
            assert (info.reason, info.metadata["operation"]) == ("WORKSPACE_BUSY", begun[0].operation)
        proxy.released.set()
        begun += events
    proxy.script = lambda seen: None
    assert begun[-1].completed.state == pb.OPERATION_STATE_SUCCEEDED
    scene.check()
    scene.recovers(kind)


def test_two_agents(agent: Daemon, other: Daemon, scene: Scene, proxy: Proxy, chance: random.Random) -> None:
    # One of them loses a process on the way.
    victim = chance.choice((Victim.OPERATION, Victim.WORKER))
    with sent(signal.SIGKILL, other, victim, proxy, 20, chance), ThreadPoolExecutor(2) as pool:
        both = [pool.submit(scene.run, Kind.SNAPSHOT, agent=each) for each in (agent, other)]
        ends = [each.result() for each in both]
    for end, each in zip(ends, (agent, other), strict=True):
        assert end.succeeded, end.end
        scene.check(end, each)
    assert len(set(scene.listed())) == 2
    scene.recovers(Kind.SNAPSHOT)
