"""Requests that reach the store long after their senders have died, and time that passes: each rule by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.maintenance.retention import Rules
from agent.repository import keys
from controller_client.demo.compare import fingerprint
from tests.faults.states.changes import Change
from tests.faults.states.history import History, Pending
from tests.faults.states.time_proxy import Moment, Place
from tests.faults.states.world import GRACE, World
from tests.support.pipelines import memory_folder
from tests.support.seaweed import SeaweedServer


@pytest.fixture
def history(seaweed: SeaweedServer, bucket: str) -> Iterator[History]:
    world = World(Path(tempfile.mkdtemp(prefix="gpusnap-late-", dir=memory_folder())), seaweed, bucket)
    for number, workspace in enumerate(world.workspaces):
        for first in range(3):
            workspace.change(Change.WRITE, first, 6 + 8 * (number + 2 * first))
    yield History(world)
    world.close()


def save(history: History, number: int) -> str:
    """Saves a workspace and returns the snapshot's id."""
    history.save(number, full=True)
    return list(history.model.snapshots)[-1]


def delete(history: History, name: str) -> None:
    """Deletes a snapshot."""
    history.world.repository.delete_snapshot(name)
    history.model.delete([name], history.world.proxy.now_s)


def pass_grace(history: History) -> None:
    """Lets the grace pass, and prunes."""
    history.world.proxy.jump(GRACE.age + 1)
    history.prune(0, dry=False)


def chunks(history: History) -> set[str]:
    """Returns the keys of all chunks."""
    return {key for key in history.world.stored() if key.startswith(keys.CHUNKS)}


def check(history: History) -> None:
    """Checks that everything that is listed comes back."""
    for name in history.model.snapshots:
        history.restore_anew(name)


def test_a_commit_that_arrives_when_its_chunks_are_gone(history: History) -> None:
    kept = save(history, 0)
    pending = Pending(history.world.proxy.now_s, born=(1, fingerprint(history.world.workspaces[1].root)))
    history.kill(history.world.snapshot(1), Place(1, "PUT", "/manifest"), Moment.LATE, pending)
    assert history.world.proxy.has_late
    history.prune(0, dry=False)
    assert not [key for key in history.world.stored() if key.startswith("condemned/")]
    for _ in range(2):
        pass_grace(history)
    assert chunks(history) == history.model.needed
    history.deliver_late()
    assert list(history.model.snapshots) == [kept]
    save(history, 1)
    check(history)


def test_a_delete_that_arrives_when_its_chunk_is_needed_again(history: History) -> None:
    save(history, 0)
    delete(history, save(history, 1))
    pass_grace(history)
    history.world.proxy.jump(GRACE.age + 1)
    pending = Pending(history.world.proxy.now_s)
    history.kill(history.world.prune(Rules()), Place(1, "DELETE", keys.CHUNKS), Moment.LATE, pending)
    assert history.world.proxy.has_late
    save(history, 1)
    history.world.proxy.jump(GRACE.delete + 1)
    history.deliver_late()
    check(history)


def test_what_is_deleted_is_held_for_the_grace(history: History) -> None:
    save(history, 0)
    name = save(history, 1)
    history.world.proxy.jump(GRACE.age + 1)
    delete(history, name)
    for _ in range(2):
        history.prune(0, dry=False)
    history.world.bring_back(name)
    history.model.snapshots[name] = history.model.trash.pop(name).saved
    for _ in range(2):
        pass_grace(history)
    check(history)


def test_what_is_condemned_is_deleted_only_after_the_grace(history: History) -> None:
    save(history, 0)
    name = save(history, 1)
    history.world.proxy.jump(GRACE.age + 1)
    delete(history, name)
    history.prune(0, dry=False)
    # Only now its tombstone is old, and no sooner is what it needs condemned.
    pass_grace(history)
    condemned = chunks(history)
    history.world.proxy.jump(GRACE.seconds // 2)
    history.prune(0, dry=False)
    assert chunks(history) == condemned > history.model.needed
    pass_grace(history)
    assert chunks(history) == history.model.needed


def test_what_is_condemned_is_stored_anew_when_it_is_needed_again(history: History) -> None:
    """A prune that looked before the snapshot was there may delete it."""
    save(history, 0)
    delete(history, save(history, 1))
    pass_grace(history)
    condemned = chunks(history) - history.model.needed
    before = history.world.modified(condemned)
    # Its marker has the snapshot look for chunks that no manifest names.
    pending = Pending(history.world.proxy.now_s, born=(1, fingerprint(history.world.workspaces[1].root)))
    history.kill(history.world.snapshot(1), Place(1, "PUT", keys.CHUNKS), Moment.NEVER_SENT, pending)
    for _ in range(2):
        history.world.proxy.jump(1)
        save(history, 1)
        after = history.world.modified(condemned)
        assert all(after[key] > before[key] for key in condemned)
        before = after
    check(history)
