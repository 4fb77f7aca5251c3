"""Processes of an operation meet a limit of memory, killed or refused: that is a retry or a clear error."""

from __future__ import annotations

import contextlib
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.faults.invariants import Kind, Scene
from tests.faults.system import (
    FEWEST_REQUESTS,
    Moment,
    Victim,
    processes_of,
    running_agent,
    scene_behind,
    watching,
)
from tests.support.daemon import Daemon
from tests.support.memory import MemoryLimit
from tests.support.proxy import Proxy
from tests.support.seaweed import SeaweedServer

LITTLE = 128 << 10
"""So little that nothing can be given back to the kernel instead, which would take it long to find out."""

NO_CHUNK = 90 << 20
"""Address space in which a worker process begins, but that has no room for a buffer of one chunk."""

BUSY = 5
"""Attempts to see all of them in time, on a machine that is busy."""


@pytest.fixture(scope="module")
def agent(seaweed: SeaweedServer) -> Iterator[Daemon]:
    with running_agent(seaweed, "stream") as daemon:
        yield daemon


@pytest.fixture
def make_scene(agent: Daemon, proxy: Proxy, module_bucket: str) -> Iterator[Callable[[], Scene]]:
    with contextlib.ExitStack() as scenes:
        yield lambda: scenes.enter_context(scene_behind(proxy, agent, module_bucket))


@pytest.fixture
def limit() -> Iterator[MemoryLimit]:
    made = MemoryLimit(LITTLE)
    yield made
    made.close()


@pytest.mark.parametrize("victim", [Victim.WORKER, Victim.OPERATION], ids=lambda value: value.value)
@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_a_process_without_memory(
    agent: Daemon, make_scene: Callable[[], Scene], limit: MemoryLimit, kind: Kind, victim: Victim
) -> None:
    met: list[int] = []

    def give_little(pid: int) -> None:
        if not met:
            limit.add(pid)
        met.append(pid)

    scene = make_scene()
    scene.prepare(kind)
    with watching(agent, victim, give_little):
        outcome = scene.run(kind)
    assert limit.kills == 1
    assert outcome.succeeded, outcome.end
    assert ("OPERATION_RETRIED" in outcome.warnings) == (victim is Victim.OPERATION)
    scene.check(outcome)
    scene.recovers(kind, outcome)


@pytest.mark.parametrize("victim", [Victim.WORKER, Victim.OPERATION], ids=lambda value: value.value)
@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_processes_that_never_have_memory(
    agent: Daemon, make_scene: Callable[[], Scene], limit: MemoryLimit, kind: Kind, victim: Victim
) -> None:
    for _ in range(BUSY):
        scene = make_scene()
        scene.prepare(kind)
        with watching(agent, victim, limit.add):
            outcome = scene.run(kind)
        if not outcome.succeeded:
            break
    assert limit.kills >= 3
    assert outcome.reason == "WORKER_CRASHED", outcome.end
    for word in ("SIGKILL", "3"):
        assert word in outcome.end.error.message
    assert "memory" in outcome.end.error.hint
    assert outcome.end.error.retryable
    scene.check(outcome)
    scene.recovers(kind, outcome)


def refuse(agent: Daemon, more: int = 0) -> None:
    """Lets operations of an agent have only so many bytes of address space more than they have now."""
    for pid in processes_of(agent, Victim.OPERATION):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more
        resource.prlimit(pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_workers_that_are_refused_memory(agent: Daemon, make_scene: Callable[[], Scene], kind: Kind) -> None:
    def give_little(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (NO_CHUNK, resource.RLIM_INFINITY))

    for _ in range(BUSY):
        scene = make_scene()
        scene.prepare(kind)
        with watching(agent, Victim.WORKER, give_little):
            outcome = scene.run(kind)
        if not outcome.succeeded:
            break
    assert outcome.reason == "OUT_OF_MEMORY", outcome.end
    scene.check(outcome)
    scene.recovers(kind, outcome)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_an_operation_that_is_refused_memory(
    agent: Daemon, make_scene: Callable[[], Scene], proxy: Proxy, kind: Kind
) -> None:
    scene = make_scene()
    scene.prepare(kind)
    proxy.script = Moment(0, lambda: refuse(agent))
    outcome = scene.run(kind)
    proxy.script = lambda seen: None
    assert outcome.reason == "OUT_OF_MEMORY", outcome.end
    assert outcome.end.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert "workers" in outcome.end.error.hint
    scene.check(outcome)
    scene.recovers(kind, outcome)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_an_operation_that_is_refused_memory_at_any_moment(
    agent: Daemon, make_scene: Callable[[], Scene], proxy: Proxy, kind: Kind, chance: random.Random
) -> None:
    scene = make_scene()
    scene.prepare(kind)
    more = chance.randrange(128 << 20)
    proxy.script = Moment(chance.randrange(FEWEST_REQUESTS), lambda: refuse(agent, more))
    outcome = scene.run(kind)
    proxy.script = lambda seen: None
    # What allocates beside Python may end the process.
    assert outcome.reason in ("", "OUT_OF_MEMORY", "WORKER_CRASHED"), outcome.end
    scene.check(outcome)
    scene.recovers(kind, outcome)
