"""What must hold whatever breaks: the one checker of the tests of faults.

Each operation ends in success, or in a clear error after which repeating it succeeds. Never is a snapshot listed that
cannot be restored, never does a wrong byte stand under a final name, never is anything waited for without end, and
never is anything left behind: processes, staged files, temporary names.

    scene = Scene(daemon, storage)
    scene.prepare(kind)            # nothing breaks yet
    outcome = scene.run(kind)      # something does
    scene.check(outcome)
    scene.recovers(kind, outcome)  # nothing does any more
"""

from __future__ import annotations

import enum
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import msgspec
from gpusnap.v1 import snapshot_agent_pb2 as pb
from gpusnap.v1.snapshot_agent_pb2_grpc import SnapshotAgentStub

from agent import errors
from tests.support.daemon import Daemon, working
from tests.support.processes import is_running, wait_until
from tests.support.rpc import connected
from tests.support.trees import Directory, File, HardLink, Node, Seeded, Symlink, build, compare

SECONDS = 180.0
"""No operation of these tests may take longer, whatever breaks and however slow the machine is."""

END_SECONDS = 30.0
"""How long after an operation's end its processes may still be there."""

REASONS = frozenset(errors.classes()) - {errors.GpusnapError.reason}
"""What an error may be called: anything but a defect."""

LARGE = 256 << 10
"""Files of at least this many bytes have segments of their own."""

TREE: tuple[Node, ...] = (
    *(File(b"models/%d.safetensors" % number, Seeded(900_000 + number * 7, seed=number)) for number in range(5)),
    *(File(b"code/%03d.py" % number, Seeded(300 + number, seed=100 + number)) for number in range(60)),
    File(b"code/empty", b""),
    HardLink(b"models/same", b"models/0.safetensors"),
    HardLink(b"models/same-code", b"code/001.py"),
    Symlink(b"latest", b"models/0.safetensors"),
    Directory(b"outputs", mode=0o700),
)
"""Several chunks of each kind, links, and an empty folder."""

SETTINGS = {
    "GPUSNAP_SCAN__LARGE_FILE_SIZE": str(LARGE),
    "GPUSNAP_TRANSFER__CONNECTIONS": "4",
    "GPUSNAP_TRANSFER__RETRY_SECONDS": "6",
    "GPUSNAP_TRANSFER__WORKERS": "2",
}
"""An agent that gives up soon, with worker processes."""

Request = pb.SnapshotRequest | pb.RestoreRequest


class Kind(enum.Enum):
    """What is interrupted."""

    SNAPSHOT = "snapshot"
    RESTORE = "restore"


class Outcome(msgspec.Struct, frozen=True):
    """How an operation ended, by its events."""

    events: list[pb.Event]

    @property
    def end(self) -> pb.Completed:
        """Its last event."""
        assert self.events, "it never began"
        assert self.events[-1].HasField("completed"), f"it has not ended: {self.events[-1]}"
        return self.events[-1].completed

    @property
    def succeeded(self) -> bool:
        """Whether it did."""
        return self.end.state == pb.OPERATION_STATE_SUCCEEDED

    @property
    def reason(self) -> str:
        """Why it failed; empty if it succeeded."""
        return self.end.error.reason

    @property
    def warnings(self) -> set[str]:
        """The reasons of its warnings."""
        return {event.warning.reason for event in self.events if event.HasField("warning")}


class Scene:
    """An agent, a workspace that does not change, a store and a target: operations to be broken, and what must hold.

    Args:
        daemon: the agent; it may be ended and started again meanwhile.
        storage: the store; the agent's configured one, if not given.
        name: sets scenes of one agent apart.
        nodes: the workspace.
        root: where workspace and targets are; by default among the agent's.
    """

    def __init__(
        self,
        daemon: Daemon,
        storage: pb.Storage | None = None,
        name: str = "scene",
        nodes: Sequence[Node] = TREE,
        root: Path | None = None,
    ) -> None:
        self.daemon = daemon
        self.storage = storage
        self.root = (root or daemon.workspace_root) / name
        self.workspace = self.root / "workspace"
        self.target = self.root / "target"
        self._log_start = daemon.log_path.stat().st_size if daemon.log_path.exists() else 0
        build(os.fsencode(self.workspace), nodes)

    # Operations.

    def request(self, kind: Kind, target: Path | None = None, snapshot: str = "latest") -> Request:
        """Returns the request for a snapshot of the workspace, or for a restore into the target."""
        if kind is Kind.SNAPSHOT:
            return pb.SnapshotRequest(workspace=str(self.workspace), storage=self.storage)
        return pb.RestoreRequest(
            snapshot=snapshot,
            target=str(target or self.target),
            if_not_empty=pb.IF_NOT_EMPTY_OVERWRITE,
            storage=self.storage,
        )

    def begin(self, stub: SnapshotAgentStub, request: Request) -> Iterator[pb.Event]:
        """Starts an operation and yields its events."""
        if isinstance(request, pb.SnapshotRequest):
            yield from (response.event for response in stub.Snapshot(request, timeout=SECONDS))
        else:
            yield from (response.event for response in stub.Restore(request, timeout=SECONDS))

    def run(
        self, kind: Kind, target: Path | None = None, snapshot: str = "latest", agent: Daemon | None = None
    ) -> Outcome:
        """Runs an operation to its end, with another agent if that is given."""
        with connected((agent or self.daemon).address) as stub:
            return Outcome(list(self.begin(stub, self.request(kind, target, snapshot))))

    def prepare(self, kind: Kind) -> None:
        """Makes what an operation needs, while nothing breaks yet."""
        if kind is Kind.RESTORE:
            made = self.run(Kind.SNAPSHOT)
            assert made.succeeded, made.end

    def ended(self, operation: str) -> Outcome:
        """Waits for the end of an operation that may outlive its caller and its agent."""
        with connected(self.daemon.address) as stub:
            request = pb.WatchOperationRequest(name=operation)
            return Outcome([response.event for response in stub.WatchOperation(request, timeout=SECONDS)])

    def listed(self) -> list[str]:
        """Returns the snapshots that are listed."""
        with connected(self.daemon.address) as stub:
            request = pb.ListSnapshotsRequest(storage=self.storage)
            return [summary.id for summary in stub.ListSnapshots(request, timeout=SECONDS).snapshots]

    # What must hold.

    @property
    def log(self) -> str:
        """What the agent has written to its log since the scene began."""
        with self.daemon.log_path.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def check(self, outcome: Outcome | None = None, agent: Daemon | None = None) -> None:
        """Checks what must hold right after an operation ended, or after its agent was started again.

        Args:
            outcome: how it ended.
            agent: the agent that did it, if it was another one.
        """
        if outcome is not None:
            is_clear(outcome)
        nothing_left(agent or self.daemon, self.root)
        right_bytes(self.workspace, self.target)
        no_defect(agent.log if agent else self.log)

    def recovers(self, kind: Kind, outcome: Outcome | None = None) -> None:
        """Checks what must hold once nothing breaks any more: the same succeeds, and whatever is listed is whole.

        Args:
            kind: what was broken.
            outcome: how it ended; it is done again unless it succeeded.
        """
        if outcome is None or not outcome.succeeded:
            again = self.run(kind)
            assert again.succeeded, again.end
        if kind is Kind.RESTORE:
            assert compare(os.fsencode(self.workspace), os.fsencode(self.target)) == []
        if kind is Kind.SNAPSHOT or len(self.listed()) > 1:
            self.all_listed_are_whole()
        self.check()

    def all_listed_are_whole(self) -> None:
        """Restores every snapshot that is listed."""
        listed = self.listed()
        assert listed
        for snapshot in listed:
            place = self.root / "whole"
            restored = self.run(Kind.RESTORE, place, snapshot)
            assert restored.succeeded, f"{snapshot} is listed, but: {restored.end}"
            assert compare(os.fsencode(self.workspace), os.fsencode(place)) == []
            shutil.rmtree(place)

    def close(self) -> None:
        """Removes all files."""
        shutil.rmtree(self.root)


def is_clear(outcome: Outcome) -> None:
    """Checks that an operation succeeded, or says in its error what was wrong and what to do."""
    end = outcome.end
    if outcome.succeeded:
        return
    assert end.state == pb.OPERATION_STATE_FAILED, end
    assert end.error.reason in REASONS, end
    for text in (end.error.message, end.error.hint):
        assert text.strip(), end
        assert "\n" not in text, end
    assert end.error.code != grpc.StatusCode.UNKNOWN.value[0], end


def nothing_left(daemon: Daemon, root: Path | None = None) -> None:
    """Checks that no operation has a process any more, and that the agent keeps nothing of those that have ended.

    Args:
        daemon: the agent; it runs no operation.
        root: where nothing unfinished may be; by default all of the agent's folder of workspaces.
    """
    wait_until(lambda: not any(map(is_running, working(daemon.pid))), "the end of all processes", END_SECONDS)
    staged = sorted(os.listdir(daemon.staging_dir))
    assert staged == [], f"left in the staging folder: {staged}"
    left = [path for path in (root or daemon.workspace_root).rglob("*") if path.name.startswith(".gpusnap")]
    assert left == [], f"left in the target: {left}"


def right_bytes(saved: Path, target: Path) -> None:
    """Checks that what stands in a target is what was saved under that name; it may lack anything."""
    for folder, _, names in os.walk(target):
        for name in names:
            path = Path(folder, name)
            original = saved / path.relative_to(target)
            assert os.path.lexists(original), f"{path} was never saved"
            if path.is_symlink():
                assert os.readlink(path) == os.readlink(original)
            else:
                assert path.read_bytes() == original.read_bytes(), f"{path} has other bytes than were saved"


def no_defect(log: str) -> None:
    """Checks that an agent's log tells of no defect."""
    for sign in ("Traceback", "defect of", "Exception ignored"):
        assert sign not in log, log[-4000:]
