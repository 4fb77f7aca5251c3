"""Processes of an operation meet a limit of memory: the kernel kills them, and that is a retry or a clear error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.faults.invariants import Kind, Scene
from tests.faults.system import Victim, place, running_agent, watching
from tests.support.daemon import Daemon
from tests.support.memory import MemoryLimit
from tests.support.proxy import Proxy
from tests.support.seaweed import SeaweedServer

LITTLE = 128 << 10
"""So little that nothing can be given back to the kernel instead, which would take it long to find out."""


BUSY = 5
"""Attempts to see all of them in time, on a machine that is busy."""


@pytest.fixture(scope="module")
def agent(seaweed: SeaweedServer) -> Iterator[Daemon]:
    with running_agent(seaweed, "stream") as daemon:
        yield daemon


@pytest.fixture
def make_scene(agent: Daemon, proxy: Proxy, module_bucket: str) -> Iterator[Callable[[], Scene]]:
    made: list[Scene] = []

    def make() -> Scene:
        name = f"scene-{os.urandom(4).hex()}"
        made.append(Scene(agent, place(proxy.endpoint, module_bucket, name), name))
        return made[-1]

    yield make
    for scene in made:
        scene.close()


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
