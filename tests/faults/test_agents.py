"""Several agents on one bucket at once: snapshots, restores, verifications, prunes, deletions and kills in any order.

In the end every snapshot that is listed comes back as it was saved. Meanwhile operations end in success, or in a clear
error after which repeating them succeeds.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

from controller_client.demo.compare import Fingerprint, differences, fingerprint
from tests.faults.invariants import SECONDS, Outcome, is_clear, no_defect, nothing_left
from tests.faults.states.changes import Change, Tree
from tests.faults.states.world import GRACE, World
from tests.support.daemon import Daemon
from tests.support.fuzz import FACTOR, tried
from tests.support.pipelines import memory_folder
from tests.support.rpc import connected, error_info
from tests.support.seaweed import SeaweedServer

AGENTS = 3
ACTIONS = 12
"""What each agent does."""

WORKSPACES = 2
"""Of each agent."""

ATTEMPTS = 4
"""How often something is done until it succeeds."""

JUMPS = (5, GRACE.seconds // 2, GRACE.age + 1)
"""Seconds by which the store's clock may jump, in the middle of whatever is going on."""

GONE = "SNAPSHOT_NOT_FOUND"
LOST = "DATA_LOSS"
"""How the restore or verification of a snapshot may end that was deleted meanwhile."""

Request = pb.SnapshotRequest | pb.RestoreRequest | pb.VerifyRequest | pb.PruneRequest


class Records:
    """What all agents together have saved. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trees: dict[str, Fingerprint] = {}
        self._tried: dict[str, list[Fingerprint]] = {}
        self.outcomes: Counter[str] = Counter()

    def begin(self, workspace: str, tree: Fingerprint) -> None:
        """Takes note of what a snapshot of a workspace may hold from now on."""
        with self._lock:
            self._tried.setdefault(workspace, []).append(tree)

    def end(self, snapshot: str, tree: Fingerprint) -> None:
        """Takes note of what a snapshot holds."""
        with self._lock:
            self._trees[snapshot] = tree

    def count(self, outcome: str) -> None:
        """Counts how something ended."""
        with self._lock:
            self.outcomes[outcome] += 1
            tried["test_agents_on_one_bucket"] += 1

    def check(self, snapshot: str, workspace: str, restored: Path) -> None:
        """Checks that a snapshot is what was saved; one that nobody has got an answer for, one of what was tried."""
        found = fingerprint(os.fsencode(restored))
        with self._lock:
            known = [self._trees[snapshot]] if snapshot in self._trees else list(self._tried[workspace])
        lines = [differences(tree, found) for tree in known]
        assert [] in lines, lines


class Agent:
    """One agent with workspaces of its own, and somebody who gives it things to do.

    Args:
        folder: an empty folder with a short path.
        world: the repository that all share.
        environ: the agent's settings.
    """

    def __init__(
        self, folder: Path, world: World, environ: dict[str, str], records: Records, chance: random.Random
    ) -> None:
        self.daemon = Daemon(folder, environ)
        self._world = world
        self._records = records
        self._chance = chance
        self._log = ""
        self._workspaces = []
        for number in range(WORKSPACES):
            path = self.daemon.workspace_root / str(number)
            path.mkdir()
            self._workspaces.append(Tree(os.fsencode(path)))
            for _ in range(8):
                self._change(self._workspaces[number], Change.WRITE)

    def act(self, actions: int) -> None:
        """Does as many things as chance wills."""
        kinds = [self._save] * 4 + [self._restore] * 3 + [self._prune] * 2 + [self._delete, self._verify, self._jump]
        for _ in range(actions):
            self._chance.choice(kinds)()

    def finish(self) -> None:
        """Checks what the agent itself has left."""
        nothing_left(self.daemon)
        no_defect(self._log + self.daemon.log)

    def restore_all(self) -> int:
        """Restores every snapshot that is listed, now that nobody else is at work; returns how many."""
        listed = self._listed()
        for summary in listed:
            assert self._restored(summary).succeeded
        return len(listed)

    # What it does.

    def _save(self) -> None:
        tree = self._chance.choice(self._workspaces)
        for _ in range(self._chance.randrange(3)):
            self._change(tree, self._chance.choice(list(Change)))
        workspace = os.fsdecode(tree.root)
        saved = fingerprint(tree.root)
        self._records.begin(workspace, saved)
        request = pb.SnapshotRequest(workspace=workspace, full=self._chance.random() < 0.3)
        outcome = self._until_it_succeeds(lambda: self._run(request))
        self._records.end(outcome.end.result.snapshot_id, saved)

    def _restore(self) -> None:
        listed = self._listed()
        if listed:
            summary = self._chance.choice(listed)
            self._until_it_succeeds(lambda: self._restored(summary), summary.id)

    def _restored(self, summary: pb.Snapshot) -> Outcome:
        target = self.daemon.workspace_root / "target"
        shutil.rmtree(target, ignore_errors=True)
        outcome = self._run(pb.RestoreRequest(snapshot=summary.id, target=str(target)))
        if outcome.succeeded:
            self._records.check(summary.id, summary.workspace, target)
        shutil.rmtree(target, ignore_errors=True)
        return outcome

    def _verify(self) -> None:
        request = pb.VerifyRequest(full=self._chance.random() < 0.5)
        self._until_it_succeeds(lambda: self._run(request))

    def _prune(self) -> None:
        request = pb.PruneRequest(keep_last=self._chance.choice((0, 2)))
        self._until_it_succeeds(lambda: self._run(request))

    def _delete(self) -> None:
        listed = self._listed()
        if len(listed) < AGENTS:
            return
        summary = self._chance.choice(listed)
        with connected(self.daemon.address) as stub:
            try:
                stub.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot=summary.id), timeout=SECONDS)
            except grpc.RpcError as error:
                assert error_info(error).reason == GONE, error
        self._records.count("deleted")

    def _jump(self) -> None:
        self._world.proxy.jump(self._chance.choice(JUMPS))
        self._records.count("the clock jumped")

    # How it is done.

    def _run(self, request: Request) -> Outcome:
        """Runs an operation; chance may have the agent killed in the middle, which continues it after its start."""
        kill_after = self._chance.choice((0, 0, 0, 1, 3, 6))
        events: list[pb.Event] = []
        with connected(self.daemon.address) as stub:
            for event in _events(stub, request):
                events.append(event)
                if len(events) == kill_after and not event.HasField("completed"):
                    break
        if not events[-1].HasField("completed"):
            self._kill()
            events += self._watched(events[-1])
        outcome = Outcome(events)
        is_clear(outcome)
        assert outcome.succeeded or outcome.end.error.retryable or outcome.reason in (GONE, LOST), outcome.end
        what = type(request).__name__.removesuffix("Request")
        self._records.count(f"{what}{', killed' * bool(kill_after)}: {outcome.reason or 'success'}")
        return outcome

    def _until_it_succeeds(self, run: Callable[[], Outcome], snapshot: str = "") -> Outcome:
        """Repeats something; what is about a snapshot only as long as that is listed."""
        for _ in range(ATTEMPTS):
            outcome = run()
            if outcome.succeeded:
                return outcome
            if snapshot and snapshot not in [summary.id for summary in self._listed()]:
                return outcome
        raise AssertionError(f"{ATTEMPTS} attempts were in vain: {outcome.end}")

    def _kill(self) -> None:
        self.daemon.stop(signal.SIGKILL)
        self._log += self.daemon.log
        self.daemon.start()

    def _watched(self, last: pb.Event) -> list[pb.Event]:
        request = pb.WatchOperationRequest(name=last.operation, after_sequence=last.sequence)
        with connected(self.daemon.address) as stub:
            return [response.event for response in stub.WatchOperation(request, timeout=SECONDS)]

    def _listed(self) -> list[pb.Snapshot]:
        with connected(self.daemon.address) as stub:
            return list(stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=SECONDS).snapshots)

    def _change(self, tree: Tree, change: Change) -> None:
        tree.change(change, self._chance.randrange(1 << 16), self._chance.randrange(1 << 16))


def _events(stub: SnapshotAgentStub, request: Request) -> Iterator[pb.Event]:
    if isinstance(request, pb.SnapshotRequest):
        yield from (response.event for response in stub.Snapshot(request, timeout=SECONDS))
    elif isinstance(request, pb.RestoreRequest):
        yield from (response.event for response in stub.Restore(request, timeout=SECONDS))
    elif isinstance(request, pb.VerifyRequest):
        yield from (response.event for response in stub.Verify(request, timeout=SECONDS))
    else:
        yield from (response.event for response in stub.Prune(request, timeout=SECONDS))


@pytest.fixture
def world(seaweed: SeaweedServer, bucket: str) -> Iterator[World]:
    world = World(Path(tempfile.mkdtemp(prefix="gpusnap-agents-", dir=memory_folder())), seaweed, bucket)
    yield world
    world.close()


@pytest.fixture
def agents(world: World, chance: random.Random) -> Iterator[list[Agent]]:
    """Agents that are ready, over one repository."""
    keys = world.storage.credentials
    assert keys is not None
    environ = {
        "STORAGE_PROVIDER": "custom",
        "STORAGE_ENDPOINT": world.storage.endpoint,
        "STORAGE_BUCKET": world.storage.bucket,
        "STORAGE_PREFIX": world.storage.prefix,
        "STORAGE_ACCESS_KEY_ID": keys.access_key_id,
        "STORAGE_SECRET_ACCESS_KEY": keys.secret_access_key,
        "GPUSNAP_SCAN__LARGE_FILE_SIZE": "64KiB",
        "GPUSNAP_TRANSFER__CONNECTIONS": "4",
        "GPUSNAP_TRANSFER__WORKERS": "1",
    }
    records = Records()
    made: list[Agent] = []
    folder = Path(tempfile.mkdtemp(prefix="gs-", dir=memory_folder()))
    try:
        for number in range(AGENTS):
            own = random.Random(chance.random())
            made.append(Agent(folder / str(number), world, environ, records, own))
            made[number].daemon.start()
        yield made
        print(*sorted(records.outcomes.items()), sep="\n")
    finally:
        for agent in made:
            agent.daemon.close()
        shutil.rmtree(folder)


def test_agents_on_one_bucket(agents: list[Agent]) -> None:
    with ThreadPoolExecutor(AGENTS) as pool:
        for done in [pool.submit(agent.act, round(ACTIONS * FACTOR)) for agent in agents]:
            done.result()
    for agent in agents:
        agent.finish()
    assert agents[0].restore_all()
