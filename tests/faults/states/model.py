"""What must be restorable, and what must be found damaged: kept beside the store, and compared with it."""

from __future__ import annotations

import enum
import os
from collections.abc import Container, Iterable

import msgspec

from controller_client.demo.compare import Facts, Fingerprint, differences, fingerprint
from tests.support.damage import flipped
from tests.support.pipelines import leftovers


class Saved(msgspec.Struct, frozen=True):
    """A snapshot as it must come back.

    Attributes:
        workspace: the number of its workspace.
        tree: the workspace when it was saved.
        chunks: the keys of its chunks.
        read: those of them that a restore reads; the others only standard tools need.
    """

    workspace: int
    tree: Fingerprint
    chunks: frozenset[str]
    read: frozenset[str]


class Harm(enum.Enum):
    """What happens to an object."""

    FLIP = "a bit is flipped"
    TRUNCATE = "the last byte is lost"
    EMPTY = "all bytes are lost"
    REMOVE = "it is lost"


def harmed(data: bytes, harm: Harm, place: int) -> bytes:
    """Returns bytes that are damaged, at a place."""
    if harm is Harm.TRUNCATE:
        return data[:-1]
    if harm is Harm.EMPTY:
        return b""
    return flipped(data, place)


class Damaged(msgspec.Struct, frozen=True):
    """A chunk that is not in the store as it was stored.

    Attributes:
        original: its bytes as they were.
        tag: the tag of what is there instead; empty for nothing.
    """

    harm: Harm
    original: bytes
    tag: str


class Deleted(msgspec.Struct, frozen=True):
    """A snapshot that was deleted, and when by the store's clock."""

    saved: Saved
    when_s: int


class Model:
    """What the repository must hold.

    Attributes:
        snapshots: those that are listed, in the order in which they were made.
        trash: those whose deletion can be undone.
        damaged: chunks that are damaged, by key; listed snapshots need all of them.
        broken: listed snapshots whose manifest is damaged.
        records: the keys of open records of what prunes may delete.
        broken_records: those of them that are damaged.
    """

    def __init__(self) -> None:
        self.snapshots: dict[str, Saved] = {}
        self.trash: dict[str, Deleted] = {}
        self.damaged: dict[str, Damaged] = {}
        self.broken: set[str] = set()
        self.records: set[str] = set()
        self.broken_records: set[str] = set()

    @property
    def whole(self) -> dict[str, Saved]:
        """The snapshots whose manifest is as it was."""
        return {name: saved for name, saved in self.snapshots.items() if name not in self.broken}

    @property
    def needed(self) -> set[str]:
        """The keys of the chunks that listed snapshots need."""
        return _chunks(self.snapshots.values())

    def held(self, since_s: int) -> set[str]:
        """Returns the keys of the chunks of snapshots that were deleted after a time."""
        return _chunks(item.saved for item in self.trash.values() if item.when_s > since_s)

    def damage_of(self, name: str) -> set[str]:
        """Returns the ids of the damaged chunks that a restore of a snapshot needs."""
        return {id_of(key) for key in self.damaged if key in self.snapshots[name].read}

    def damage(self, *, full: bool) -> dict[str, set[str]]:
        """Returns which whole snapshots need each damaged chunk that a verification must find."""
        seen = {key for key, item in self.damaged.items() if full or item.harm is not Harm.FLIP}
        users = {key: {name for name, saved in self.whole.items() if key in saved.chunks} for key in seen}
        return {key: names for key, names in users.items() if names}

    def delete(self, names: Iterable[str], now_s: int) -> None:
        """Takes note that snapshots were deleted."""
        for name in list(names):
            saved = self.snapshots.pop(name)
            if name in self.broken:
                self.broken.remove(name)
            elif not any(key in saved.chunks for key in self.damaged):
                self.trash[name] = Deleted(saved, now_s)


def id_of(key: str) -> str:
    """Returns the id of the chunk with this key."""
    return key.rpartition("/")[2]


def restored(target: bytes) -> Fingerprint:
    """Returns what stands in a target, without what a killed restore has left there for the next one."""
    return {path: facts for path, facts in fingerprint(target).items() if not path.startswith(b".gpusnap")}


def hides_changes(wanted: Fingerprint, found: Fingerprint) -> bool:
    """Says whether there is a file of the right size and time with other content."""
    both = ((wanted[path], found[path]) for path in wanted.keys() & found.keys())
    return any(
        one.kind == other.kind
        and (one.status.st_size, one.status.st_mtime_ns) == (other.status.st_size, other.status.st_mtime_ns)
        and one.digest != other.digest
        for one, other in both
    )


def check_success(saved: Saved, target: bytes, left_out: Container[bytes], *, has_more: bool) -> None:
    """Checks that a restore has brought back everything.

    Args:
        left_out: paths that it has warned of.
        has_more: whether the target may hold what the snapshot does not have.
    """
    assert leftovers(target) == []
    found = restored(target)
    expected = {path: facts for path, facts in saved.tree.items() if path not in left_out}
    if has_more:
        found = {path: facts for path, facts in found.items() if path in expected}
    assert differences(expected, found) == []


def check_data_loss(saved: Saved, target: bytes, lost: Container[bytes]) -> None:
    """Checks that a restore into an empty target has brought back all that is not lost."""
    if not os.path.exists(target):
        # One that was made for the restore and got nothing is gone again.
        assert all(path in lost or saved.tree[path].leader in lost for path in saved.tree.keys() - {b""}), lost
        return
    assert leftovers(target) == []
    for line in differences(saved.tree, restored(target)):
        assert line.endswith(": missing") or "a hard link of" in line, line
    missing = saved.tree.keys() - restored(target).keys()
    assert all(path in lost or saved.tree[path].leader in lost for path in missing), (missing, lost)


def check_bytes(saved: Saved, before: Fingerprint, target: bytes) -> None:
    """Checks that every file in a target is what was saved under its name, or what stood there before."""
    for path, facts in restored(target).items():
        known = [_look(tree[path]) for tree in (saved.tree, before) if path in tree]
        assert _look(facts) in known, f"{path!r} is {_look(facts)}, neither of {known}"


def _look(facts: Facts) -> tuple[str, bytes, bytes]:
    return facts.kind, facts.digest, facts.target


def _chunks(snapshots: Iterable[Saved]) -> set[str]:
    return {key for saved in snapshots for key in saved.chunks}
