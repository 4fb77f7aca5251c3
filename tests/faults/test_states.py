"""Random histories of workspaces, snapshots, deletions, prunes, kills, damage and passing time, on a real S3 server.

A model knows what must be restorable. Whatever happens, each snapshot that is listed comes back exactly as it was
saved, or, if its chunks were damaged, as far as they were not, with an error that names them; a verification finds the
damage and nothing else; and what nobody needs is gone after the grace, but nothing else.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from agent.config.model import EngineChoice
from agent.errors import DataLossError
from agent.maintenance.retention import Rules
from agent.repository import keys
from agent.repository.manifest_layout import MAGIC, TRAILER_SIZE
from agent.restore.request import IfNotEmpty
from agent.snapshot.parent import RACY_NS
from controller_client.demo.compare import fingerprint
from tests.faults.states.changes import QUIET, Change, Tree
from tests.faults.states.history import History, Pending
from tests.faults.states.model import Damaged, Harm, check_bytes, harmed, hides_changes, id_of, restored
from tests.faults.states.time_proxy import Moment, Place
from tests.faults.states.world import GRACE, WORKSPACES, World
from tests.support.fuzz import FACTOR
from tests.support.pipelines import memory_folder
from tests.support.seaweed import SeaweedServer

HISTORIES = 5
STEPS = 50

WAITS = 4
"""How often one history waits for files, or for the store, to become older."""

DAY = 24 * 3600

NUMBERS = st.integers(0, 1 << 16)
CHANGES = st.lists(st.tuples(st.sampled_from(Change), NUMBERS, NUMBERS), min_size=1, max_size=4)

SNAPSHOT_PLACES = [
    *(Place(number) for number in (1, 3, 5, 7, 9, 12, 15, 20)),
    *(Place(number, "PUT", "/chunks/") for number in (1, 2, 3)),
    Place(1, "PUT", "/chunks.txt"),
    Place(1, "PUT", "/manifest?"),
    Place(1, "DELETE", "/running/"),
]
PRUNE_PLACES = [
    *(Place(number) for number in (1, 4, 8, 12, 16, 24, 32)),
    *(Place(number, "DELETE", "/chunks/") for number in (1, 2, 3)),
    Place(1, "PUT", "/trash/"),
    Place(1, "DELETE", "/manifest"),
    Place(1, "PUT", "/condemned/"),
    Place(1, "PUT", "/done"),
    Place(1, "DELETE", "/condemned/"),
]


class Machine(RuleBasedStateMachine):
    """What may happen to one repository from its beginning."""

    def __init__(self, server: SeaweedServer, bucket: str) -> None:
        super().__init__()
        folder = Path(tempfile.mkdtemp(prefix="gpusnap-states-", dir=memory_folder()))
        self._world = World(folder, server, bucket)
        self._history = History(self._world)
        self._model = self._history.model
        self._changed_s = 0.0
        self._waits = WAITS

    @initialize(changes=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=4, max_size=10))
    def begin(self, changes: Sequence[tuple[int, int]]) -> None:
        for first, second in changes:
            self._world.workspaces[0].change(Change.WRITE, first, second)
            self._world.workspaces[1].change(Change.WRITE, second, first)
        self._changed_s = time.time()

    # What users do.

    @rule(number=st.integers(0, WORKSPACES - 1), changes=CHANGES)
    def change(self, number: int, changes: Sequence[tuple[Change, int, int]]) -> None:
        for change, first, second in changes:
            self._world.workspaces[number].change(change, first, second)
        self._changed_s = time.time()
        self._history.tell(f"change workspace {number}: {', '.join(change.value for change, _, _ in changes)}")

    @rule(number=st.integers(0, WORKSPACES - 1), full=st.booleans(), engine=st.sampled_from(EngineChoice))
    def save(self, number: int, full: bool, engine: EngineChoice) -> None:
        with self._world.engine(engine):
            self._history.save(number, full=full)

    @precondition(lambda self: self._waits)
    @rule(
        number=st.integers(0, WORKSPACES - 1),
        quiet=st.tuples(st.sampled_from(QUIET), NUMBERS, NUMBERS),
        changes=CHANGES,
    )
    def rest_save_change_save(
        self, number: int, quiet: tuple[Change, int, int], changes: Sequence[tuple[Change, int, int]]
    ) -> None:
        """Only what is older than a few seconds counts as unchanged without being read."""
        self._waits -= 1
        left = self._changed_s + RACY_NS / 1e9 + 0.1 - time.time()
        if left > 0:
            time.sleep(left)  # what is waited for is the age of files
        self._history.save(number, full=False)
        self.change(number, [quiet, *changes])
        self._history.save(number, full=False)

    @precondition(lambda self: self._model.snapshots)
    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        name = self._history.chosen(number)
        self._history.tell(f"delete {name}")
        self._world.repository.delete_snapshot(name)
        self._model.delete([name], self._world.proxy.now_s)
        self._history.compare_with_store()

    @precondition(lambda self: self._history.revivable())
    @rule(number=NUMBERS)
    def undo_delete(self, number: int) -> None:
        names = self._history.revivable()
        name = names[number % len(names)]
        self._history.tell(f"bring {name} back")
        self._world.bring_back(name)
        self._model.snapshots[name] = self._model.trash.pop(name).saved
        self._history.compare_with_store()

    @rule(last=st.integers(0, 3), dry=st.booleans())
    def prune(self, last: int, dry: bool) -> None:
        self._history.prune(last, dry=dry)

    # What is promised.

    @rule()
    def check_store(self) -> None:
        """The first by name of those without arguments: hypothesis begins with a history of nothing else."""
        self._history.compare_with_store()

    @precondition(lambda self: self._model.snapshots)
    @rule(number=NUMBERS, engine=st.sampled_from(EngineChoice))
    def restore(self, number: int, engine: EngineChoice) -> None:
        with self._world.engine(engine):
            self._history.restore_anew(self._history.chosen(number))

    @precondition(lambda self: self._model.snapshots and self._world.target.exists())
    @rule(
        number=NUMBERS,
        mode=st.sampled_from([IfNotEmpty.OVERWRITE, IfNotEmpty.MIRROR]),
        checksum=st.booleans(),
        changes=CHANGES,
    )
    def restore_over(
        self, number: int, mode: IfNotEmpty, checksum: bool, changes: Sequence[tuple[Change, int, int]]
    ) -> None:
        target = Tree(os.fsencode(self._world.target))
        for change, first, second in changes:
            target.change(change, first, second)
        self._history.restore_over(self._history.chosen(number), mode, checksum=checksum)

    @precondition(lambda self: self._model.snapshots)
    @rule(full=st.booleans())
    def verify(self, full: bool) -> None:
        self._history.tell(f"verify, full {full}")
        expected = self._model.damage(full=full)
        try:
            self._world.run(self._world.verify(full=full))
        except DataLossError as error:
            found = {item.chunk_id: {user.snapshot_id for user in item.snapshots} for item in error.damaged}
            broken = {user.snapshot_id for item in error.damaged if not item.chunk_id for user in item.snapshots}
            found.pop("", None)
            assert broken <= self._model.broken
            if full:
                assert broken == self._model.broken
            # A quick look may take a manifest for whole that is not.
            told = {key: names - self._model.broken for key, names in found.items()}
            assert {key: names for key, names in told.items() if names} == {
                id_of(key): names for key, names in expected.items()
            }
        else:
            assert not expected
            assert not (full and self._model.broken)

    @precondition(lambda self: self._waits)
    @rule()
    def wait_and_collect(self) -> None:
        """After two graces nothing is left that nobody needs."""
        self._waits -= 1
        self._history.deliver_late()
        if self._model.broken:
            return
        for _ in range(2):
            self._world.proxy.jump(GRACE.age + 1)
            self._history.prune(0, dry=False)
        stored = self._world.stored()
        assert {key for key in stored if key.startswith(keys.CHUNKS)} <= self._model.needed
        below = {key.partition("/")[0] for key in stored} - {"condemned"}
        assert below <= {"chunks", "snapshots", keys.REPOSITORY}, below
        listed = {key.split("/")[1] for key in stored if key.startswith(keys.SNAPSHOTS)}
        assert listed == self._model.snapshots.keys()
        self._model.trash.clear()

    # What goes wrong.

    @rule(seconds=st.sampled_from([3, GRACE.seconds // 2, GRACE.age, 13 * 3600, 2 * DAY]))
    def let_time_pass(self, seconds: int) -> None:
        self._history.tell(f"{seconds} seconds pass")
        self._world.proxy.jump(seconds)

    @precondition(lambda self: self._model.needed - self._model.damaged.keys())
    @rule(number=NUMBERS, harm=st.sampled_from(Harm), place=NUMBERS)
    def damage_chunk(self, number: int, harm: Harm, place: int) -> None:
        choice = sorted(self._model.needed - self._model.damaged.keys())
        key = choice[number % len(choice)]
        self._history.tell(f"damage {key}: {harm.value}")
        original = self._world.read(key)
        if harm is Harm.REMOVE:
            self._world.remove(key)
        else:
            self._world.write(key, harmed(original, harm, place % len(original)))
        self._model.damaged[key] = Damaged(harm, original, self._world.stored().get(key, ""))
        self._model.trash = {n: item for n, item in self._model.trash.items() if key not in item.saved.chunks}

    @precondition(lambda self: self._model.whole)
    @rule(number=NUMBERS, harm=st.sampled_from([Harm.FLIP, Harm.TRUNCATE]), place=NUMBERS)
    def damage_manifest(self, number: int, harm: Harm, place: int) -> None:
        names = list(self._model.whole)
        name = names[number % len(names)]
        self._history.tell(f"damage the manifest of {name}: {harm.value}")
        original = self._world.read(keys.manifest(name))
        # What identifies the format at its beginning no reader needs, and another version at its end is another error.
        place = len(MAGIC) + place % (len(original) - len(MAGIC) - TRAILER_SIZE)
        self._world.write(keys.manifest(name), harmed(original, harm, place))
        self._model.broken.add(name)
        self._history.compare_with_store()

    @precondition(lambda self: self._model.records)
    @rule(number=NUMBERS, harm=st.sampled_from([Harm.FLIP, Harm.TRUNCATE, Harm.EMPTY]), place=NUMBERS)
    def damage_record(self, number: int, harm: Harm, place: int) -> None:
        self._history.damage_record(number, harm, place)

    @precondition(lambda self: self._model.broken)
    @rule()
    def give_up_broken(self) -> None:
        for name in sorted(self._model.broken):
            self._world.repository.delete_snapshot(name)
            self._model.delete([name], self._world.proxy.now_s)
        self._history.compare_with_store()

    @precondition(lambda self: self._model.damaged)
    @rule()
    def repair(self) -> None:
        self._history.tell("repair all chunks")
        for key, item in self._model.damaged.items():
            self._world.write(key, item.original)
        self._model.damaged.clear()

    @rule(
        number=st.integers(0, WORKSPACES - 1),
        full=st.booleans(),
        place=st.sampled_from(SNAPSHOT_PLACES),
        moment=st.sampled_from(Moment),
    )
    def kill_snapshot(self, number: int, full: bool, place: Place, moment: Moment) -> None:
        tree = fingerprint(self._world.workspaces[number].root)
        pending = Pending(self._world.proxy.now_s, born=(number, tree))
        self._history.kill(self._world.snapshot(number, full=full), place, moment, pending)

    @rule(last=st.integers(0, 2), place=st.sampled_from(PRUNE_PLACES), moment=st.sampled_from(Moment))
    def kill_prune(self, last: int, place: Place, moment: Moment) -> None:
        pending = Pending(self._world.proxy.now_s, going=frozenset(self._history.going(last)))
        self._history.kill(self._world.prune(Rules(last=last)), place, moment, pending)

    @precondition(lambda self: self._model.whole)
    @rule(number=NUMBERS, messages=st.integers(1, 20), mode=st.sampled_from([IfNotEmpty.OVERWRITE, IfNotEmpty.MIRROR]))
    def kill_restore(self, number: int, messages: int, mode: IfNotEmpty) -> None:
        names = list(self._model.whole)
        name = names[number % len(names)]
        target = os.fsencode(self._world.target)
        before = restored(target) if self._world.target.exists() else {}
        checksum = hides_changes(self._model.snapshots[name].tree, before)
        killed = self._world.kill_after(self._world.restore(name, mode, checksum=checksum), messages)
        self._history.tell(f"kill the restore of {name} at message {messages}: {killed}")
        if self._world.target.exists():
            check_bytes(self._model.snapshots[name], before, target)

    @precondition(lambda self: self._history.pending is not None)
    @rule()
    def deliver_late(self) -> None:
        self._history.deliver_late()

    def teardown(self) -> None:
        try:
            self._history.deliver_late()
            for name in list(self._model.snapshots):
                self._history.restore_anew(name)
            self.wait_and_collect()
            for name in list(self._model.snapshots):
                self._history.restore_anew(name)
        finally:
            self._world.close()


def test_histories(seaweed: SeaweedServer, bucket: str) -> None:
    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(seaweed, bucket)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=max(round(HISTORIES * FACTOR), 1),
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
