"""The agent is told to end (SIGTERM) at a random moment of an operation: what it owes is done before it has ended."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from tests.faults.invariants import END_SECONDS, Kind, Scene, right_bytes
from tests.faults.system import FEWEST_REQUESTS, Moment, running_agent, scene_behind
from tests.support.daemon import Daemon, working
from tests.support.processes import is_running, wait_until
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import SECONDS, connected
from tests.support.seaweed import SeaweedServer


@pytest.fixture(scope="module", params=[True, False], ids=["continues", "ends"])
def resumes(request: pytest.FixtureRequest) -> bool:
    """Whether the next agent goes on with what this one leaves."""
    chosen: bool = request.param
    return chosen


@pytest.fixture(scope="module")
def agent(seaweed: SeaweedServer, resumes: bool) -> Iterator[Daemon]:
    with running_agent(seaweed, "stream", GPUSNAP_AGENT__RESUME_ON_START=str(resumes).lower()) as daemon:
        yield daemon


@pytest.fixture
def scene(agent: Daemon, proxy: Proxy, module_bucket: str) -> Iterator[Scene]:
    with scene_behind(proxy, agent, module_bucket) as made:
        yield made


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_told_to_end(
    agent: Daemon, scene: Scene, proxy: Proxy, kind: Kind, resumes: bool, chance: random.Random
) -> None:
    scene.prepare(kind)
    running: set[int] = set()

    def tell() -> None:
        running.update(working(agent.pid))
        os.kill(agent.pid, signal.SIGTERM)

    moment = Moment(chance.randrange(FEWEST_REQUESTS), tell)
    # What it asks for from then on waits, or it might be done first.
    proxy.released.clear()
    proxy.script = lambda seen: moment(seen) or (Fault(is_held=True) if moment.has_come.is_set() else None)
    with connected(agent.address) as stub:
        # Nobody listens any more, so that nothing but the agent itself waits for the operation.
        name = next(scene.begin(stub, scene.request(kind))).operation
    assert agent.wait() == 0
    proxy.script = lambda seen: None
    proxy.released.set()
    assert running
    wait_until(lambda: not any(map(is_running, running)), "the end of all processes", END_SECONDS)
    assert os.listdir(agent.staging_dir) == []
    if not resumes:
        right_bytes(scene.workspace, scene.target)
        assert not [path for path in scene.root.rglob("*") if path.name.startswith(".gpusnap")]
    agent.start()
    with connected(agent.address) as stub:
        left = stub.GetOperation(pb.GetOperationRequest(name=name), timeout=SECONDS).operation
    outcome = scene.ended(name)
    if resumes:
        assert outcome.succeeded, outcome.end
    else:
        # What had nearly done its work by then has succeeded all the same.
        assert left.state in (pb.OPERATION_STATE_CANCELLED, pb.OPERATION_STATE_SUCCEEDED), left
        assert "after a restart of the agent" not in agent.log
    scene.check(outcome if outcome.succeeded else None)
    scene.recovers(kind)
