"""Disks that are full, read-only or dying under a real agent: a clear error that names the place, and nothing lost."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import shutil
import signal
from collections.abc import Iterator

import grpc
import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from tests.faults.invariants import Kind, Outcome, Request, Scene
from tests.faults.system import ENGINES, FEWEST_REQUESTS, Moment, scene_behind, stopped_agent
from tests.support.daemon import Daemon
from tests.support.disks import Disk, IoErrors
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import SECONDS, connected, error_info
from tests.support.seaweed import SeaweedServer
from tests.support.trees import compare

MIB = 1 << 20


one_engine = pytest.mark.parametrize("machine", ["s5cmd"], indirect=True)
"""For what has nothing to do with the engine."""


class Machine:
    """An agent with disks of its own.

    Attributes:
        daemon: the agent.
        state, staging, work: its state folder, its staging folder, and the disk of workspace and target.
        errors: lets reads and writes of the agent fail.
    """

    def __init__(self, daemon: Daemon, state: Disk, staging: Disk, work: Disk, errors: IoErrors) -> None:
        self.daemon = daemon
        self.state = state
        self.staging = staging
        self.work = work
        self.errors = errors

    def is_well(self) -> None:
        """Checks that the agent answers."""
        with connected(self.daemon.address) as stub:
            assert not stub.GetAgentInfo(pb.GetAgentInfoRequest(), timeout=SECONDS).running_operations


@pytest.fixture(scope="module", params=ENGINES)
def machine(request: pytest.FixtureRequest, seaweed: SeaweedServer) -> Iterator[Machine]:
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(stopped_agent(seaweed, request.param))
        folders = daemon.state_dir, daemon.staging_dir, daemon.workspace_root / "disk"
        state, staging, work = (
            stack.enter_context(contextlib.closing(Disk(folder, size * MIB)))
            for folder, size in zip(folders, (2, 16, 32), strict=True)
        )
        library = daemon.folder / "errors"
        library.mkdir()
        errors = IoErrors(library)
        daemon.environ |= errors.environ
        daemon.start()
        yield Machine(daemon, state, staging, work, errors)


@pytest.fixture
def scene(machine: Machine, proxy: Proxy, module_bucket: str) -> Iterator[Scene]:
    with scene_behind(proxy, machine.daemon, module_bucket, root=machine.work.folder) as made:
        yield made
        machine.errors.clear()
        for disk in (machine.state, machine.staging, machine.work):
            disk.make_room()


def fails_clearly(machine: Machine, scene: Scene, kind: Kind, reasons: set[str], *named: object) -> Outcome:
    """Runs an operation that must fail with an error that names these; the agent is well then."""
    outcome = scene.run(kind)
    scene.check(outcome)
    assert outcome.reason in reasons, outcome.end
    for name in named:
        assert str(name) in outcome.end.error.message, outcome.end.error
    machine.is_well()
    return outcome


def begin_target(scene: Scene) -> None:
    """Lets the target have something of the workspace, so that nobody asks for the room of all of it."""
    (scene.target / "code").mkdir(parents=True)
    shutil.copy2(scene.workspace / "code/empty", scene.target / "code/empty")


def test_a_full_target(machine: Machine, scene: Scene, chance: random.Random) -> None:
    scene.prepare(Kind.RESTORE)
    machine.work.fill()
    fails_clearly(machine, scene, Kind.RESTORE, {"NO_SPACE"}, scene.target)
    machine.work.make_room()
    begin_target(scene)
    machine.work.fill(leave=chance.randrange(3 * MIB))
    fails_clearly(machine, scene, Kind.RESTORE, {"NO_SPACE"}, scene.target)
    machine.work.make_room()
    scene.recovers(Kind.RESTORE)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_a_full_staging_folder(machine: Machine, scene: Scene, kind: Kind, chance: random.Random) -> None:
    scene.prepare(kind)
    machine.staging.fill()
    fails_clearly(machine, scene, kind, {"NO_SPACE", "STAGING_FULL"}, machine.staging.folder)
    machine.staging.make_room()
    machine.staging.fill(leave=chance.randrange(MIB))
    outcome = scene.run(kind)
    if not outcome.succeeded:
        assert outcome.reason in ("NO_SPACE", "STAGING_FULL"), outcome.end
        assert str(machine.staging.folder) in outcome.end.error.message
    scene.check(outcome)
    machine.staging.make_room()
    scene.recovers(kind)


def repeated(scene: Scene, request: Request) -> Outcome:
    """Sends a request and returns the events of its operation."""
    with connected(scene.daemon.address) as stub:
        return Outcome(list(scene.begin(stub, request)))


@one_engine
@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_a_state_folder_that_gets_full(
    machine: Machine, scene: Scene, proxy: Proxy, kind: Kind, chance: random.Random
) -> None:
    scene.prepare(kind)
    proxy.script = Moment(chance.randrange(FEWEST_REQUESTS), machine.state.fill)
    request = scene.request(kind)
    request.request_id = scene.root.name
    outcome = repeated(scene, request)
    proxy.script = lambda seen: None
    assert outcome.succeeded, outcome.end
    scene.check(outcome)
    machine.is_well()
    # There may still be room in the journal's own files for another one.
    try:
        assert scene.run(kind).succeeded
    except grpc.RpcError as error:
        assert error_info(error).reason == "NO_SPACE"
        assert str(machine.state.folder) in str(error)
    machine.state.make_room()
    scene.recovers(kind)
    is_remembered(machine, scene, request, outcome)


def is_remembered(machine: Machine, scene: Scene, request: Request, outcome: Outcome) -> None:
    """Checks that the next agent knows how an operation has ended."""
    machine.daemon.stop(signal.SIGKILL)
    machine.daemon.start()
    assert repeated(scene, request).events[-1] == outcome.events[-1]


def said_at_start(machine: Machine) -> str:
    """Starts the agent, which cannot start, and returns what it says."""
    process = machine.daemon.launch()
    assert process.wait(30) != 0
    lines = [line for line in machine.daemon.log.splitlines() if line.startswith("gpusnap-agent: ")]
    assert len(lines) == 1, machine.daemon.log
    assert "Traceback" not in machine.daemon.log
    return lines[0]


@one_engine
def test_a_state_folder_that_is_full_at_the_start(machine: Machine, scene: Scene, proxy: Proxy) -> None:
    proxy.script = Moment(5, lambda: os.kill(machine.daemon.pid, signal.SIGKILL))
    request = scene.request(Kind.SNAPSHOT)
    request.request_id = scene.root.name
    with pytest.raises(grpc.RpcError):
        repeated(scene, request)
    machine.daemon.wait()
    proxy.script = lambda seen: None
    machine.state.fill()
    said = said_at_start(machine)
    assert str(machine.state.folder) in said
    assert "full" in said or os.strerror(errno.ENOSPC) in said
    machine.state.make_room()
    # It goes on with what was begun.
    machine.daemon.start()
    outcome = repeated(scene, request)
    assert outcome.succeeded, outcome.end
    scene.recovers(Kind.SNAPSHOT, outcome)


@one_engine
def test_a_read_only_target(machine: Machine, scene: Scene) -> None:
    scene.prepare(Kind.RESTORE)
    machine.work.set_read_only(True)
    try:
        fails_clearly(machine, scene, Kind.RESTORE, {"LOCAL_PERMISSION_DENIED"}, scene.target, "Read-only")
    finally:
        machine.work.set_read_only(False)
    scene.recovers(Kind.RESTORE)


@one_engine
def test_a_read_only_state_folder_at_the_start(machine: Machine, scene: Scene) -> None:
    machine.daemon.stop()
    machine.state.set_read_only(True)
    try:
        assert str(machine.state.folder) in said_at_start(machine)
    finally:
        machine.state.set_read_only(False)
        machine.daemon.start()
    scene.recovers(Kind.SNAPSHOT)


@one_engine
def test_files_that_cannot_be_read(machine: Machine, scene: Scene) -> None:
    bad = [scene.workspace / "models/1.safetensors", scene.workspace / "code/007.py"]
    machine.errors.set("r", *bad)
    outcome = scene.run(Kind.SNAPSHOT)
    machine.errors.clear()
    assert outcome.succeeded
    assert outcome.end.result.warnings == len(bad)
    warned = [event.warning for event in outcome.events if event.HasField("warning")]
    assert {warning.reason for warning in warned} == {"FILE_UNREADABLE"}
    assert {path for warning in warned for path in warning.paths} == {
        os.fsencode(path.relative_to(scene.workspace)) for path in bad
    }
    scene.check(outcome)
    # What was saved comes back, all but those; the next snapshot has them.
    assert scene.run(Kind.RESTORE).succeeded
    assert compare(os.fsencode(scene.workspace), os.fsencode(scene.target)) == [
        f"{path.relative_to(scene.workspace)}: missing" for path in sorted(bad)
    ]
    with connected(machine.daemon.address) as stub:
        [first] = scene.listed()
        stub.DeleteSnapshot(pb.DeleteSnapshotRequest(storage=scene.storage, snapshot=first), timeout=SECONDS)
    scene.recovers(Kind.SNAPSHOT)


@one_engine
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS], ids=os.strerror)
def test_a_target_that_cannot_be_written(machine: Machine, scene: Scene, number: int) -> None:
    scene.prepare(Kind.RESTORE)
    machine.errors.set("w", f"{scene.target}/.gpusnap-restore-", number=number)
    reason = {errno.ENOSPC: "NO_SPACE", errno.EROFS: "LOCAL_PERMISSION_DENIED"}.get(number, "LOCAL_IO")
    fails_clearly(machine, scene, Kind.RESTORE, {reason}, scene.target, os.strerror(number))
    machine.errors.clear()
    scene.recovers(Kind.RESTORE)


@pytest.mark.parametrize("kind", Kind, ids=lambda value: value.value)
def test_a_staging_folder_that_cannot_be_written(machine: Machine, scene: Scene, kind: Kind) -> None:
    scene.prepare(kind)
    machine.errors.set("w", machine.staging.folder)
    fails_clearly(machine, scene, kind, {"LOCAL_IO"}, machine.staging.folder, os.strerror(errno.EIO))
    machine.errors.clear()
    scene.recovers(kind)


JOURNALS = [("w", errno.EIO), ("s", errno.EIO), ("r", errno.EIO), ("w", errno.ENOSPC), ("ws", errno.EROFS)]


@one_engine
@pytest.mark.parametrize(("actions", "number"), JOURNALS, ids=str)
def test_a_journal_that_cannot_be_used(
    machine: Machine, scene: Scene, proxy: Proxy, actions: str, number: int, chance: random.Random
) -> None:
    def breaks() -> None:
        machine.errors.set(actions, machine.state.folder, number=number)

    proxy.script = Moment(chance.randrange(FEWEST_REQUESTS), breaks)
    request = scene.request(Kind.SNAPSHOT)
    request.request_id = scene.root.name
    outcome = repeated(scene, request)
    proxy.script = lambda seen: None
    assert outcome.succeeded, outcome.end
    scene.check(outcome)
    machine.is_well()
    if actions != "r":  # it may know all that it would read
        with pytest.raises(grpc.RpcError) as raised:
            scene.run(Kind.SNAPSHOT)
        assert error_info(raised.value).reason == ("NO_SPACE" if number == errno.ENOSPC else "JOURNAL_UNUSABLE")
        assert str(machine.state.folder) in str(raised.value)
    machine.errors.clear()
    scene.recovers(Kind.SNAPSHOT, outcome)
    is_remembered(machine, scene, request, outcome)


@one_engine
def test_a_cancel_that_the_journal_cannot_take(
    machine: Machine, scene: Scene, proxy: Proxy, chance: random.Random
) -> None:
    proxy.held.clear()
    proxy.released.clear()
    number, first = itertools.count(), chance.randrange(FEWEST_REQUESTS)
    proxy.script = lambda seen: Fault(is_held=True) if next(number) >= first else None
    with connected(machine.daemon.address) as stub:
        events = scene.begin(stub, scene.request(Kind.SNAPSHOT))
        name = next(events).operation
        assert proxy.held.wait(SECONDS)
        machine.errors.set("ws", machine.state.folder)
        stub.CancelOperation(pb.CancelOperationRequest(name=name), timeout=SECONDS)
        assert list(events)[-1].completed.state == pb.OPERATION_STATE_CANCELLED
    proxy.script = lambda seen: None
    proxy.released.set()
    scene.check()
    machine.is_well()
    machine.errors.clear()
    scene.recovers(Kind.SNAPSHOT)
