"""Lookouts are killed and stopped at random moments: a snapshot does not need them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from tests.faults.invariants import Kind, Scene
from tests.faults.system import Victim, running_agent, scene_behind, watching
from tests.support.daemon import Daemon
from tests.support.fuzz import FACTOR
from tests.support.processes import is_running, wait_until
from tests.support.proxy import Proxy
from tests.support.rpc import SECONDS, connected
from tests.support.seaweed import SeaweedServer
from tests.support.trees import File, HardLink, Node, Seeded

MOMENTS = max(round(4 * FACTOR), 1)

NODES: tuple[Node, ...] = (
    *(File(b"code/%03d/%03d.py" % divmod(number, 20), Seeded(300, seed=number)) for number in range(800)),
    HardLink(b"code/same", b"code/000/000.py"),
)


@pytest.fixture(scope="module")
def agent(seaweed: SeaweedServer) -> Iterator[Daemon]:
    # More than one worker, whatever the machine has.
    with running_agent(seaweed, "stream") as daemon:
        yield daemon


@pytest.fixture
def make_scene(agent: Daemon, proxy: Proxy, module_bucket: str) -> Iterator[Callable[[], Scene]]:
    with contextlib.ExitStack() as scenes:
        yield lambda: scenes.enter_context(scene_behind(proxy, agent, module_bucket, NODES))


def sends(number: signal.Signals, after: float, met: list[int]) -> Callable[[int], None]:
    def send(pid: int) -> None:
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        met.append(pid)

    return send


def test_killed(agent: Daemon, make_scene: Callable[[], Scene], chance: random.Random) -> None:
    scene = make_scene()
    scene.prepare(Kind.RESTORE)
    for _ in range(MOMENTS):
        met: list[int] = []
        with watching(agent, Victim.LOOKOUT, sends(signal.SIGKILL, chance.uniform(0.0, 0.2), met)):
            outcome = scene.run(Kind.SNAPSHOT)
        assert len(met) == 1
        assert outcome.succeeded, outcome.end
        assert outcome.warnings == set()
        scene.check(outcome)
    scene.recovers(Kind.SNAPSHOT, outcome)


def test_one_that_never_goes_on_can_be_cancelled(
    agent: Daemon, make_scene: Callable[[], Scene], chance: random.Random
) -> None:
    scene = make_scene()
    scene.prepare(Kind.RESTORE)
    met: list[int] = []
    with (
        watching(agent, Victim.LOOKOUT, sends(signal.SIGSTOP, chance.uniform(0.0, 0.1), met)),
        connected(agent.address) as stub,
    ):
        events = scene.begin(stub, scene.request(Kind.SNAPSHOT))
        begun = next(events)
        wait_until(lambda: met, "a lookout to be stopped", SECONDS)
        stub.CancelOperation(pb.CancelOperationRequest(name=begun.operation), timeout=SECONDS)
        end = list(events)[-1].completed
    # What had been told everything by then has succeeded all the same.
    assert end.state in (pb.OPERATION_STATE_CANCELLED, pb.OPERATION_STATE_SUCCEEDED), end
    assert not is_running(met[0])
    scene.check()
    scene.recovers(Kind.SNAPSHOT)


def test_one_whose_operation_is_killed(agent: Daemon, make_scene: Callable[[], Scene]) -> None:
    scene = make_scene()
    scene.prepare(Kind.RESTORE)
    met: list[int] = []

    def kill(pid: int) -> None:
        if not met:
            met.append(pid)
            os.kill(pid, signal.SIGSTOP)
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGKILL)

    with watching(agent, Victim.LOOKOUT, kill):
        outcome = scene.run(Kind.SNAPSHOT)
    assert outcome.succeeded, outcome.end
    assert not is_running(met[0])
    scene.check(outcome)
    scene.recovers(Kind.SNAPSHOT, outcome)
