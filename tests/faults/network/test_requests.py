"""The network and the store break requests of an operation: a few of them, or all from some moment on."""

from __future__ import annotations

import os
import random

import pytest

from tests.faults.conftest import SEED
from tests.faults.invariants import Kind
from tests.faults.network.conftest import MakeScene
from tests.faults.network.troubles import BODY_BYTES, CHUNKS, SURVIVED, TROUBLES, UNAVAILABLE, Breaking, Trouble
from tests.support.daemon import Daemon
from tests.support.fuzz import FACTOR, tried
from tests.support.proxy import Fault, Proxy, Seen

ENGINES = ("s5cmd", "stream")

EACH = [
    pytest.param(engine, trouble, kind, id=f"{engine}-{name}-{kind.value}")
    for engine in ENGINES
    for name, trouble in TROUBLES.items()
    for kind in trouble.kinds
    if engine == "stream" or trouble.part in ("", CHUNKS)  # engines move chunks only
]
"""Each trouble with each operation and each engine that it can matter to."""

ROUNDS = 1
"""Runs in bad weather of each kind in a usual run."""


def drawn(test: str, share: float) -> pytest.MarkDecorator:
    """Runs a test with a share of all combinations; ``FACTOR`` multiplies it, up to all of them several times."""
    rounds, rest = divmod(round(len(EACH) * share * FACTOR), len(EACH))
    cases = EACH * rounds + random.Random(f"{os.environ[SEED]} {test}").sample(EACH, rest)
    cases.sort(key=EACH.index)  # an agent serves all tests with its engine
    return pytest.mark.parametrize(("engine", "trouble", "kind"), cases, indirect=["engine"], scope="module")


@drawn("few", share=1.0)
def test_a_few_requests_break(
    make_scene: MakeScene, proxy: Proxy, trouble: Trouble, kind: Kind, chance: random.Random
) -> None:
    scene = make_scene(kind)
    proxy.script = breaking = Breaking(trouble, chance, is_lasting=False, first=2)
    outcome = scene.run(kind)
    proxy.script = lambda seen: None
    assert any(breaking.broken.values())
    scene.check(outcome)
    assert outcome.reason in trouble.passing, outcome.end
    scene.recovers(kind, outcome)


@drawn("all", share=0.4)
def test_all_requests_break(
    make_scene: MakeScene,
    patient: Daemon,
    hasty: Daemon,
    proxy: Proxy,
    trouble: Trouble,
    kind: Kind,
    chance: random.Random,
) -> None:
    scene = make_scene(kind)
    # On a slow machine a hasty agent may give up whatever it does.
    agent = hasty if trouble.lasting >= UNAVAILABLE else patient
    proxy.script = breaking = Breaking(trouble, chance, is_lasting=True, first=5)
    outcome = scene.run(kind, agent=agent)
    proxy.script = lambda seen: None
    assert any(breaking.broken.values())
    scene.check(outcome, agent=agent)
    assert outcome.reason in trouble.lasting, outcome.end
    scene.recovers(kind, outcome)


@pytest.mark.parametrize("engine", ["stream"], indirect=True)  # s5cmd begins a chunk anew
def test_chunks_go_on_from_where_they_broke(make_scene: MakeScene, proxy: Proxy) -> None:
    scene = make_scene(Kind.RESTORE)
    requests: list[Seen] = []

    def breaks(seen: Seen) -> Fault | None:
        requests.append(seen)
        return Fault(end_after=BODY_BYTES // 3) if CHUNKS in seen.path else None

    proxy.script = breaks
    outcome = scene.run(Kind.RESTORE)
    proxy.script = lambda seen: None
    scene.check(outcome)
    finished = [event.chunk_finished for event in outcome.events if event.HasField("chunk_finished")]
    fetched = [seen for seen in requests if CHUNKS in seen.path]
    assert len(fetched) > len(finished)
    assert sum(seen.passed for seen in fetched) == sum(chunk.stored_bytes for chunk in finished)
    assert outcome.succeeded, outcome.end
    scene.recovers(Kind.RESTORE, outcome)


@pytest.mark.parametrize("kind", Kind)
def test_bad_weather(make_scene: MakeScene, proxy: Proxy, kind: Kind, chance: random.Random) -> None:
    for _ in range(max(round(ROUNDS * FACTOR), 1)):
        tried["test_bad_weather"] += 1
        scene = make_scene(kind)
        share = chance.uniform(0.05, 0.25)

        def weather(seen: Seen, share: float = share) -> Fault | None:
            return TROUBLES[chance.choice(SURVIVED)].fault(chance) if chance.random() < share else None

        proxy.script = weather
        outcome = scene.run(kind)
        proxy.script = lambda seen: None
        scene.check(outcome)
        assert outcome.reason in ("", "STORAGE_UNAVAILABLE", "DATA_LOSS"), outcome.end
        scene.recovers(kind, outcome)
