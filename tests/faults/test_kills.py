"""Processes are killed and stopped at random moments of an operation: it goes on, and what was confirmed stays."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

from tests.faults.invariants import LARGE, Kind, Outcome, Scene
from tests.faults.system import ENGINES, Moment, Victim, processes_of, running_agent, scene_behind, sent
from tests.support.daemon import Daemon
from tests.support.fuzz import FACTOR
from tests.support.processes import is_running, wait_until
from tests.support.proxy import Proxy, Seen
from tests.support.rpc import SECONDS, connected
from tests.support.seaweed import SeaweedServer
from tests.support.trees import File, HardLink, Node, Seeded

MOMENTS = max(round(FACTOR), 1)
"""Kills of each process in each operation with each engine."""

REQUESTS = {Kind.SNAPSHOT: 36, Kind.RESTORE: 18}
"""After so many requests, an operation on these workspaces still has much to do."""

WORKERS = 2

NODES: tuple[Node, ...] = (
    *(File(b"models/%d.safetensors" % number, Seeded(LARGE + 1000 * number, seed=number)) for number in range(16)),
    *(File(b"code/%03d.py" % number, Seeded(300 + number, seed=100 + number)) for number in range(60)),
    HardLink(b"models/same", b"models/0.safetensors"),
)

KILLS = [(victim, kind) for victim in Victim for kind in Kind if victim is not Victim.LOOKOUT]


@pytest.fixture(scope="module", params=ENGINES)
def agent(request: pytest.FixtureRequest, seaweed: SeaweedServer) -> Iterator[Daemon]:
    with running_agent(seaweed, request.param) as daemon:
        yield daemon


@pytest.fixture
def make_scene(agent: Daemon, proxy: Proxy, module_bucket: str) -> Iterator[Callable[[], Scene]]:
    with contextlib.ExitStack() as scenes:
        yield lambda: scenes.enter_context(scene_behind(proxy, agent, module_bucket, NODES))


def events_of(scene: Scene, request: pb.SnapshotRequest | pb.RestoreRequest, after: int) -> list[pb.Event]:
    """Sends a request, or sends it again, and returns its events up to its end or that of its agent."""
    events: list[pb.Event] = []
    try:
        with connected(scene.daemon.address) as stub:
            for event in scene.begin(stub, request):
                events += [event] if event.sequence > after else []
    except grpc.RpcError:
        wait_until(lambda: not is_running(scene.daemon.pid), "the agent's end, as the call has ended early", 10)
    return events


def to_its_end(scene: Scene, kind: Kind) -> Outcome:
    """Runs an operation to its end, with an agent that is started again whenever it was killed."""
    request = scene.request(kind)
    request.request_id = scene.root.name
    events: list[pb.Event] = []
    while not (events and events[-1].HasField("completed")):
        if not is_running(scene.daemon.pid):
            scene.daemon.wait()
            scene.daemon.start()
        events += events_of(scene, request, events[-1].sequence if events else 0)
    return Outcome(events)


def moved_twice(outcome: Outcome) -> int:
    """Returns how many large chunks moved again after they were confirmed."""
    finished = [event.chunk_finished for event in outcome.events if event.HasField("chunk_finished")]
    moved = [chunk.chunk_id for chunk in finished if chunk.raw_bytes >= LARGE and not chunk.reused]
    return len(moved) - len(set(moved))


def victims_of(agent: Daemon) -> list[Victim]:
    """Returns what an agent with its engine has. A lookout is there only if an earlier snapshot is."""
    absent = {Victim.LOOKOUT}
    if agent.environ["GPUSNAP_TRANSFER__ENGINE"] != "s5cmd":
        absent.add(Victim.S5CMD)
    return [each for each in Victim if each not in absent]


def needs(agent: Daemon, victim: Victim) -> None:
    if victim not in victims_of(agent):
        pytest.skip("this engine has no s5cmd")


@pytest.mark.parametrize(("victim", "kind"), KILLS, ids=lambda value: value.value)
def test_killed(
    agent: Daemon,
    make_scene: Callable[[], Scene],
    proxy: Proxy,
    victim: Victim,
    kind: Kind,
    chance: random.Random,
) -> None:
    needs(agent, victim)
    for _ in range(MOMENTS):
        scene = make_scene()
        scene.prepare(kind)
        with sent(signal.SIGKILL, agent, victim, proxy, REQUESTS[kind], chance) as killed:
            outcome = to_its_end(scene, kind)
        assert len(killed) == 1
        assert outcome.succeeded, outcome.end
        assert moved_twice(outcome) <= WORKERS
        scene.check(outcome)
        scene.recovers(kind, outcome)


@pytest.mark.parametrize("victim", [Victim.AGENT, Victim.OPERATION], ids=lambda value: value.value)
def test_killed_right_after_the_commit(
    agent: Daemon, make_scene: Callable[[], Scene], proxy: Proxy, victim: Victim
) -> None:
    scene = make_scene()
    killed: list[int] = []

    def kill(seen: Seen) -> None:
        if seen.method == "DELETE" and "/running/" in seen.path and not killed:
            killed.extend(processes_of(agent, victim))
            os.kill(killed[0], signal.SIGKILL)

    proxy.script = kill
    outcome = to_its_end(scene, Kind.SNAPSHOT)
    proxy.script = lambda seen: None
    assert killed
    assert outcome.succeeded, outcome.end
    # It is found instead of being made twice.
    assert scene.listed() == [outcome.end.result.snapshot_id]
    scene.check(outcome)
    scene.recovers(Kind.SNAPSHOT, outcome)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_stopped_for_a_while(
    agent: Daemon, make_scene: Callable[[], Scene], proxy: Proxy, kind: Kind, chance: random.Random
) -> None:
    for victim in chance.sample(victims_of(agent), min(MOMENTS, 3)):
        scene = make_scene()
        scene.prepare(kind)
        with sent(signal.SIGSTOP, agent, victim, proxy, REQUESTS[kind], chance) as stopped:
            thread = threading.Thread(target=let_go_on, args=(stopped, chance.uniform(0.1, 2.0)))
            thread.start()
            outcome = to_its_end(scene, kind)
            thread.join()
        assert len(stopped) == 1
        assert outcome.succeeded, outcome.end
        assert moved_twice(outcome) <= WORKERS
        scene.check(outcome)
        scene.recovers(kind, outcome)


def let_go_on(stopped: list[int], seconds: float) -> None:
    """Lets a process that will be stopped go on so many seconds later."""
    wait_until(lambda: stopped, "a process to be stopped", SECONDS)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(stopped[0], signal.SIGCONT)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_an_s5cmd_that_never_goes_on(
    agent: Daemon, make_scene: Callable[[], Scene], proxy: Proxy, kind: Kind, chance: random.Random
) -> None:
    needs(agent, Victim.S5CMD)
    scene = make_scene()
    scene.prepare(kind)
    with sent(signal.SIGSTOP, agent, Victim.S5CMD, proxy, REQUESTS[kind], chance) as stopped:
        outcome = to_its_end(scene, kind)
    assert len(stopped) == 1
    assert outcome.succeeded, outcome.end
    scene.check(outcome)
    scene.recovers(kind, outcome)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_what_never_goes_on_can_be_cancelled(
    agent: Daemon,
    make_scene: Callable[[], Scene],
    proxy: Proxy,
    kind: Kind,
    chance: random.Random,
) -> None:
    scene = make_scene()
    scene.prepare(kind)
    victim = chance.choice((Victim.OPERATION, Victim.WORKER))
    with (
        sent(signal.SIGSTOP, agent, victim, proxy, REQUESTS[kind], chance) as stopped,
        connected(agent.address) as stub,
    ):
        events = scene.begin(stub, scene.request(kind))
        begun = next(events)
        wait_until(lambda: stopped, "a process to be stopped", SECONDS)
        stub.CancelOperation(pb.CancelOperationRequest(name=begun.operation), timeout=SECONDS)
        end = list(events)[-1].completed
    # What had done all its work by then has succeeded all the same.
    assert end.state in (pb.OPERATION_STATE_CANCELLED, pb.OPERATION_STATE_SUCCEEDED), end
    scene.check()
    scene.recovers(kind)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_a_stopped_worker_of_an_operation_that_is_killed(
    agent: Daemon, make_scene: Callable[[], Scene], proxy: Proxy, kind: Kind, chance: random.Random
) -> None:
    scene = make_scene()
    scene.prepare(kind)
    with (
        sent(signal.SIGSTOP, agent, Victim.WORKER, proxy, REQUESTS[kind], chance) as stopped,
        connected(agent.address) as stub,
    ):
        events = scene.begin(stub, scene.request(kind))
        begun = [next(events)]
        wait_until(lambda: stopped, "a process to be stopped", SECONDS)
        for process in processes_of(agent, Victim.OPERATION):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        outcome = Outcome(begun + list(events))
    assert outcome.succeeded, outcome.end
    assert not is_running(stopped[0])
    scene.check(outcome)
    scene.recovers(kind, outcome)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_cancelled(
    agent: Daemon, make_scene: Callable[[], Scene], proxy: Proxy, kind: Kind, chance: random.Random
) -> None:
    for _ in range(MOMENTS):
        scene = make_scene()
        scene.prepare(kind)
        with connected(agent.address) as stub:
            end = cancelled(stub, scene, kind, proxy, chance)
        assert end.state in (pb.OPERATION_STATE_CANCELLED, pb.OPERATION_STATE_SUCCEEDED), end
        scene.check()
        scene.recovers(kind)


def cancelled(stub: SnapshotAgentStub, scene: Scene, kind: Kind, proxy: Proxy, chance: random.Random) -> pb.Completed:
    """Runs an operation that is cancelled at some moment, and returns its end."""
    names: list[str] = []

    def cancel() -> bool:
        if names:
            stub.CancelOperation.future(pb.CancelOperationRequest(name=names[0]), timeout=SECONDS)
        return bool(names)

    proxy.script = Moment(chance.randrange(REQUESTS[kind]), cancel)
    events = scene.begin(stub, scene.request(kind))
    names.append(next(events).operation)
    end = list(events)[-1].completed
    proxy.script = lambda seen: None
    return end
