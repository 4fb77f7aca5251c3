"""One repository and what it must hold: operations on it, each of which is judged at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import msgspec

from agent.errors import DataLossError, DeadlinePassedError
from agent.maintenance.retention import Rules
from agent.operations.request import Request
from agent.repository import keys
from agent.repository.condemned import CONDEMNED
from agent.restore.request import IfNotEmpty
from controller_client.demo.compare import Fingerprint, fingerprint
from tests.faults.states.model import (
    Harm,
    Model,
    check_bytes,
    check_data_loss,
    check_success,
    harmed,
    hides_changes,
    restored,
)
from tests.faults.states.time_proxy import Moment, Place
from tests.faults.states.world import GRACE, WORKSPACES, World
from tests.support.fuzz import tried
from tests.support.pipelines import damage_of

_T = TypeVar("_T")

ATTEMPTS = 3
"""A snapshot that took too long fails with an error that says to repeat it; no more than so often."""


class Pending(msgspec.Struct, frozen=True):
    """What an operation that was killed may still bring about.

    Attributes:
        since_s: when it was begun, by the store's clock.
        born: the snapshot that it was making; ``None`` if it was making none.
        going: the snapshots that it was deleting.
    """

    since_s: int
    born: tuple[int, Fingerprint] | None = None
    going: frozenset[str] = frozenset()


class History:
    """One repository from its beginning.

    Attributes:
        world: the repository, its workspaces and a target.
        model: what the repository must hold.
        pending: what an operation that was killed may still bring about; ``None`` if it cannot any more.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.model = Model()
        self.pending: Pending | None = None
        self._spoiled: dict[str, str] = {}

    # How it is done and checked.

    def save(self, number: int, *, full: bool) -> None:
        """Saves a workspace."""
        tree = fingerprint(self.world.workspaces[number].root)
        request = self.world.snapshot(number, full=full)
        in_the_way = set(self.model.broken_records)
        try:
            result = _repeated(lambda: self.world.run(request))
        except DataLossError as error:
            self._fails_for_a_record(error)
            if self._set_records_aside():
                self.save(number, full=full)
            return
        assert not in_the_way, f"nobody knows what may be deleted: {in_the_way}"
        name = result.snapshot_id
        self.tell(f"save workspace {number} as {name}, full {full}; {result.unchanged_files} files not read")
        assert self.world.warned().keys() <= ({"SNAPSHOT_DAMAGED"} if self.model.broken else set())
        self.model.snapshots[name] = self.world.saved(name, number, tree)
        self.compare_with_store()

    def prune(self, last: int, *, dry: bool) -> None:
        """Prunes, and keeps the newest so many snapshots of each workspace; all for 0."""
        self.tell(f"prune, keep last {last}, dry {dry}")
        before = self.world.stored()
        going = self.going(last)
        broken_records = set(self.model.broken_records)
        try:
            result = self.world.run(self.world.prune(Rules(last=last), dry_run=dry))
        except DataLossError as error:
            assert any(name in error.message for name in self.model.broken), error
            assert self.model.needed <= self.world.stored().keys() | self._removed()
        else:
            assert result.prune is not None
            assert result.prune.removed == len(going)
            assert ("RECORD_DAMAGED" in self.world.warned()) == bool(broken_records)
            if not dry:
                self.model.delete(going, self.world.proxy.now_s)
        if dry:
            assert self.world.stored() == before
        self.compare_with_store()
        if not dry and not self.model.broken:
            assert not broken_records & self.model.broken_records

    def _fails_for_a_record(self, error: DataLossError) -> None:
        """Checks that a snapshot failed as a record is damaged, and that it says what to do."""
        self.tell(f"a record is in the way: {error}")
        assert self._spoiled, error
        assert any(key in error.message for key in self._spoiled), error
        assert "gpusnap prune" in error.hint
        self.compare_with_store()

    def _set_records_aside(self) -> bool:
        """Does what the error says, and waits until no delete can be under way any more; says whether that helps."""
        if self.model.broken:
            return False
        self.prune(0, dry=False)
        self.world.proxy.jump(GRACE.settle + 1)
        return True

    def damage_record(self, number: int, harm: Harm, place: int) -> None:
        """Damages an open record."""
        choice = sorted(self.model.records)
        key = choice[number % len(choice)]
        self.tell(f"damage {key}: {harm.value}")
        original = self.world.read(key)
        if original:
            self.world.write(key, harmed(original, harm, place % len(original)))
            self._spoiled[key] = self.world.stored()[key]
        self.compare_with_store()

    def going(self, last: int) -> list[str]:
        """Returns the snapshots that do not stay by a rule."""
        if not last:
            return []
        found = []
        for number in range(WORKSPACES):
            of_one = sorted(name for name, saved in self.model.snapshots.items() if saved.workspace == number)
            found += of_one[:-last]
        return found

    def restore_anew(self, name: str) -> None:
        """Restores a snapshot into an empty target."""
        self.world.empty_target()
        self.tell(f"restore {name}")
        saved, target = self.model.snapshots[name], os.fsencode(self.world.target)
        damaged = self.model.damage_of(name)
        try:
            self.world.run(self.world.restore(name))
        except DataLossError as error:
            if name in self.model.broken:
                assert name in error.message
                assert not self.world.target.exists()
                return
            found = damage_of(error)
            assert found.keys() == damaged
            check_data_loss(saved, target, set().union(*found.values()))
        else:
            assert name not in self.model.broken
            assert not damaged
            check_success(saved, target, (), has_more=False)

    def restore_over(self, name: str, mode: IfNotEmpty, *, checksum: bool) -> None:
        """Restores a snapshot over what is in the target."""
        saved, target = self.model.snapshots[name], os.fsencode(self.world.target)
        before = restored(target)
        # Without checksums, size and time are what counts.
        checksum = checksum or hides_changes(saved.tree, before)
        self.tell(f"restore {name} over what is there, {mode.value}, checksum {checksum}")
        try:
            self.world.run(self.world.restore(name, mode, checksum=checksum))
        except DataLossError as error:
            if name in self.model.broken:
                assert name in error.message
                return
            assert damage_of(error).keys() <= self.model.damage_of(name)
            check_bytes(saved, before, target)
        else:
            assert name not in self.model.broken
            warned = self.world.warned()
            assert warned.keys() <= {"NOT_REPLACED", "LINK_NOT_RESTORED"}, warned
            assert mode is IfNotEmpty.OVERWRITE or not warned
            left_out = set().union(*warned.values())
            check_success(saved, target, left_out, has_more=mode is IfNotEmpty.OVERWRITE)

    def kill(self, request: Request, place: Place, moment: Moment, pending: Pending) -> None:
        """Kills an operation at one of its requests."""
        self.deliver_late()
        killed = self.world.kill(request, place, moment)
        self.tell(f"kill a {type(request).__name__} at {place}, {moment.value}: {killed}")
        self.pending = pending
        self.compare_with_store()
        if not self.world.proxy.has_late:
            self.pending = None

    def deliver_late(self) -> None:
        """Lets the store get what was on its way when its sender was killed."""
        if self.pending is None:
            return
        self.world.proxy.deliver_late()
        self.tell("deliver what was on its way")
        self.compare_with_store()
        self.pending = None
        # It may have been the removal of a tombstone.
        self.model.trash.clear()

    def compare_with_store(self) -> None:
        """Takes note of what a killed operation has brought about, and checks that nothing that is needed is gone."""
        stored = self.world.stored()
        listed = {key.split("/")[1] for key in stored if key.startswith(keys.SNAPSHOTS) and key.endswith("/manifest")}
        for name in sorted(listed - self.model.snapshots.keys()):
            assert self.pending is not None, f"{name} came from nowhere"
            assert self.pending.born is not None, f"{name} came from nowhere"
            number, tree = self.pending.born
            self.model.snapshots[name] = self.world.saved(name, number, tree)
            self.pending = msgspec.structs.replace(self.pending, born=None)
        gone = self.model.snapshots.keys() - listed
        assert gone <= (self.pending.going if self.pending is not None else frozenset()), gone
        if gone and self.pending is not None:
            self.model.delete(gone, self.pending.since_s)
        here = stored.keys() | self._removed()
        assert self.model.needed <= here, self.model.needed - here
        held = self.model.held(self.world.proxy.now_s - GRACE.seconds + 2)
        assert held <= here, held - here
        self._look_at_damage(stored)
        self._look_at_records(stored)

    def _look_at_records(self, stored: dict[str, str]) -> None:
        """Takes note of the records that are open; a damaged one is one no more once other bytes stand there."""
        done = {key.removesuffix("done") for key in stored if key.startswith(CONDEMNED) and key.endswith("/done")}
        self._spoiled = {key: tag for key, tag in self._spoiled.items() if stored.get(key) == tag}
        records = {key for key in stored if key.startswith(CONDEMNED) and key.endswith("/chunks")}
        self.model.records = {key for key in records if key.removesuffix("chunks") not in done}
        self.model.broken_records = self.model.records & self._spoiled.keys()

    def _look_at_damage(self, stored: dict[str, str]) -> None:
        for key, item in list(self.model.damaged.items()):
            tag = stored.get(key, "")
            if tag != item.tag and tag:
                assert self.world.read(key) == item.original, f"{key} has bytes that nobody has stored"
            if tag != item.tag:
                del self.model.damaged[key]
            elif key not in self.model.needed:
                # Whoever finds it there later cannot know how long it was.
                if tag:
                    self.world.write(key, item.original)
                del self.model.damaged[key]

    def _removed(self) -> set[str]:
        return {key for key, item in self.model.damaged.items() if item.harm is Harm.REMOVE}

    def revivable(self) -> list[str]:
        """Returns the deleted snapshots that are surely in their grace."""
        if self.pending is not None:
            return []
        begin = self.world.proxy.now_s - GRACE.seconds + 2
        return [name for name, item in self.model.trash.items() if item.when_s > begin]

    def chosen(self, number: int) -> str:
        """Returns a listed snapshot."""
        names = list(self.model.snapshots)
        return names[number % len(names)]

    def tell(self, what: str) -> None:
        """Writes down, and counts, what happens; shown if the test fails."""
        tried["test_histories"] += 1
        print(f"{self.world.proxy.shift:9,} s: {what}", flush=True)


def _repeated(work: Callable[[], _T]) -> _T:
    for _ in range(ATTEMPTS - 1):
        try:
            return work()
        except DeadlinePassedError as error:
            assert error.retryable
    return work()
