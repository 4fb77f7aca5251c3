"""The network and the store break requests of verifications, prunes and deletions: a few of them, or all from some
moment on. Each ends in success or in a clear error after which it succeeds, and no listed snapshot ever lacks anything.

Operations run in this process, behind a proxy that breaks requests and another one that lets the store's clock jump.
"""

from __future__ import annotations

import enum
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.config.model import EngineChoice, StorageConfig, TransferConfig
from agent.errors import GpusnapError, SnapshotNotFoundError
from agent.repository import condemned, keys
from agent.repository.grace import Grace
from agent.repository.repository import Repository
from agent.storage.open import open_store
from tests.faults.conftest import SEED
from tests.faults.invariants import REASONS
from tests.faults.network.troubles import CHUNKS, NONE, TROUBLES, Breaking, Trouble, cut
from tests.faults.states.time_proxy import TimeProxy
from tests.support.forging import set_grace
from tests.support.fuzz import FACTOR
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.proxy import Fault, Proxy
from tests.support.saved import LARGE
from tests.support.seaweed import SeaweedServer
from tests.support.trees import File, Seeded, build, compare

GRACE = Grace(80)
"""So long that a delete is valid for longer than any operation here is held up."""

PATIENT, HASTY = (
    TransferConfig(workers=1, connections=4, retry_seconds=6.0),
    TransferConfig(workers=1, retry_seconds=1.0),
)


class Kind(enum.Enum):
    """What is broken."""

    QUICK = "verify"
    FULL = "verify-full"
    PRUNE = "prune"
    DELETE = "delete"


RECORDS = {
    "cut-record": Trouble(cut, few=2, part=condemned.CONDEMNED),
    "flip-in-record": Trouble(lambda chance: Fault(flip_at=chance.randrange(80)), few=2, part=condemned.CONDEMNED),
}
"""What else can happen to a prune. A record of condemned chunks that stays damaged is set aside, so it succeeds."""

LEFT_OUT = {"slow-link", "hung-up", "no-answer", "closed", "429", "503", "403-without-text", "flip-in-whole-manifest"}
"""What differs from others only in the engines, or takes long."""

EVERYTHING = {name: trouble for name, trouble in {**TROUBLES, **RECORDS}.items() if name not in LEFT_OUT}


def engines(trouble: Trouble, kind: Kind) -> tuple[EngineChoice, ...]:
    """Returns the engines that are worth trying, for none of whose requests a trouble makes no difference."""
    if trouble.part == CHUNKS:
        happens = kind is Kind.FULL
    elif trouble.part == condemned.CONDEMNED:
        happens = kind is Kind.PRUNE
    else:
        happens = kind is not Kind.DELETE or trouble.part in ("", "/manifest")
    both = kind is Kind.FULL and trouble.part in ("", CHUNKS)
    return (EngineChoice.STREAM, EngineChoice.S5CMD)[: happens + both] if happens else ()


EACH = [(name, kind, engine) for name in EVERYTHING for kind in Kind for engine in engines(EVERYTHING[name], kind)]


def drawn(cases: list[tuple[str, Kind, EngineChoice]], share: float = 1.0) -> pytest.MarkDecorator:
    """Runs a test with a share of cases; ``FACTOR`` multiplies it, up to all of them."""
    chance = random.Random(f"{os.environ[SEED]} maintenance")
    chosen = chance.sample(cases, min(round(len(cases) * share * FACTOR), len(cases)))
    return pytest.mark.parametrize(
        ("name", "kind", "engine"),
        [pytest.param(*case, id="-".join([case[0], case[1].value, case[2].value])) for case in cases if case in chosen],
    )


class Place:
    """A repository with a workspace that is saved, and another one that is saved to be deleted."""

    def __init__(self, folder: Path, seaweed: SeaweedServer, bucket: str) -> None:
        storage = seaweed.storage_config(bucket, "maintained")
        self.clock = TimeProxy(seaweed.address, storage)
        self.breaking = Proxy(("127.0.0.1", self.clock.port))
        self.folder = folder
        (folder / "work").mkdir()
        self.direct = Pipelines(folder / "work", msgspec.structs.replace(storage, endpoint=self.clock.endpoint))
        set_grace(self.direct.repository.store, GRACE)
        self._broken_storage = msgspec.structs.replace(storage, endpoint=self.breaking.endpoint)
        self.kept = folder / "kept"
        self.needed = b"model-of-its-own"
        model = File(b"model", Seeded(900_000, seed=1))
        build(os.fsencode(self.kept), [model, File(self.needed, Seeded(300_000, seed=2)), File(b"small", b"x")])
        self.save(self.kept)
        self._number = 0

    def save(self, workspace: Path) -> str:
        """Saves a workspace and returns the snapshot's id."""
        return self.direct.snapshot(os.fsencode(workspace), large_file_size=LARGE).snapshot_id

    def save_another(self) -> str:
        """Saves a workspace with content of its own and some of the kept one's."""
        self._number += 1
        other = self.folder / f"other-{self._number}"
        # Nothing that was condemned before: a snapshot would wait until that is surely deleted.
        own = File(b"own-%d" % self._number, Seeded(50_000, seed=-self._number))
        build(os.fsencode(other), [File(b"model", Seeded(900_000, seed=1)), own, File(b"y", b"%d" % self._number)])
        return self.save(other)

    def leave_garbage(self) -> set[str]:
        """Leaves chunks behind that no snapshot needs and that are due to be deleted; returns their keys.

        A chunk that is needed is condemned too, as it is if a snapshot had found it before, and was committed then.
        """
        gone = self.save_another()
        store = self.direct.repository.store
        for key in (keys.manifest(gone), keys.chunk_list(gone)):
            store.delete(key)
        self.clock.jump(GRACE.seconds + 2)
        self.direct.prune()
        oldest = self.listed()[-1]
        entry = self.direct.entries(oldest)[self.needed]
        condemned.write_records(store, [self.direct.chunks(oldest)[entry.chunk + 1].id])
        self.clock.jump(GRACE.seconds + 2)
        found = self.garbage()
        assert found
        return found

    def listed(self) -> list[str]:
        """Returns the snapshots, the newest first."""
        return [found.id for found in self.direct.repository.list_snapshots(100)]

    def garbage(self) -> set[str]:
        """Returns the keys of chunks that no snapshot names."""
        named = {keys.chunk(chunk.id) for name in self.listed() for chunk in self.direct.chunks(name)}
        return {found.key for found in self.direct.repository.store.list(keys.CHUNKS)} - named

    def run(self, kind: Kind, snapshot: str, transfer: TransferConfig) -> str:
        """Does it where requests are broken; returns the reason of its error, or nothing."""
        try:
            self.do(kind, snapshot, self._broken_storage, transfer)
        except GpusnapError as error:
            assert error.reason in REASONS, repr(error)
            for text in (error.message, error.hint):
                assert text.strip()
                assert "\n" not in text
            return error.reason
        return ""

    def do(self, kind: Kind, snapshot: str, storage: StorageConfig, transfer: TransferConfig) -> None:
        """Does it."""
        pipelines = Pipelines.__new__(Pipelines)
        pipelines.__dict__.update(self.direct.__dict__, storage=storage, transfer=transfer)
        if kind is Kind.PRUNE:
            pipelines.prune()
        elif kind is Kind.DELETE:
            store = open_store(storage, transfer.retry_seconds)
            try:
                Repository(store).delete_snapshot(snapshot)
            finally:
                store.close()
        else:
            pipelines.verify(full=kind is Kind.FULL)

    def check(self) -> None:
        """Every snapshot that is listed is whole, and the kept workspace comes back."""
        assert self.direct.verify(full=True).verify is not None
        target = self.folder / "target"
        oldest = self.listed()[-1]
        self.direct.restore(os.fsencode(target), oldest)
        assert compare(os.fsencode(self.kept), os.fsencode(target)) == []
        shutil.rmtree(target)

    def recovers(self, kind: Kind, snapshot: str) -> None:
        """The same succeeds once nothing breaks any more."""
        try:
            self.do(kind, snapshot, self.direct.storage, PATIENT)
        except SnapshotNotFoundError:
            # The deletion was complete, whether that was confirmed or not.
            assert kind is Kind.DELETE
        self.check()

    def close(self) -> None:
        self.breaking.close()
        self.clock.close()


@pytest.fixture(scope="module")
def shared(seaweed: SeaweedServer, module_bucket: str) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-maintained-", dir=memory_folder()))
    made = Place(folder, seaweed, module_bucket)
    yield made
    made.close()
    shutil.rmtree(folder)


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    """The repository; nothing breaks yet, and nothing does any more."""
    yield shared
    shared.breaking.script = lambda seen: None
    for name in shared.listed()[:-1]:
        shared.direct.repository.delete_snapshot(name)


def broken(place: Place, kind: Kind, breaking: Breaking, transfer: TransferConfig, is_misled: bool) -> str:
    """Has an operation meet a trouble; checks what must hold then, and returns the reason of its error.

    Args:
        is_misled: a prune may condemn once more what was due.
    """
    snapshot = place.save_another() if kind is not Kind.PRUNE else ""
    garbage = place.leave_garbage() if kind is Kind.PRUNE else set()
    place.breaking.script = breaking
    reason = place.run(kind, snapshot, transfer)
    place.breaking.script = lambda seen: None
    assert any(breaking.broken.values())
    place.check()
    place.recovers(kind, snapshot)
    if not is_misled:
        assert not place.garbage() & garbage
    if kind is Kind.DELETE:
        assert snapshot not in place.listed()
    return reason


@drawn(EACH)
def test_a_few_requests_break(place: Place, name: str, kind: Kind, engine: EngineChoice, chance: random.Random) -> None:
    trouble = EVERYTHING[name]
    if engine is not EngineChoice.S5CMD:
        # More is only what s5cmd gets over.
        trouble = msgspec.structs.replace(trouble, few_chunks=0)
    breaking = Breaking(trouble, chance, is_lasting=False, first=2)
    transfer = msgspec.structs.replace(PATIENT, engine=engine)
    reason = broken(place, kind, breaking, transfer, is_misled=name == "flip-in-listing")
    # What a listing says against an object is asked again.
    is_asked_again = name == "flip-in-listing" and kind in (Kind.QUICK, Kind.FULL)
    assert reason in (NONE if is_asked_again else trouble.passing)


# If every listing has flipped bits, nothing protects what a prune deletes.
@drawn([case for case in EACH if case[:2] != ("flip-in-listing", Kind.PRUNE)], share=0.3)
def test_all_requests_break(place: Place, name: str, kind: Kind, engine: EngineChoice, chance: random.Random) -> None:
    trouble = EVERYTHING[name]
    breaking = Breaking(trouble, chance, is_lasting=True, first=2, fetches=kind is Kind.FULL)
    transfer = msgspec.structs.replace(HASTY, engine=engine)
    reason = broken(place, kind, breaking, transfer, is_misled=name == "flip-in-record")
    assert reason in trouble.lasting | NONE
