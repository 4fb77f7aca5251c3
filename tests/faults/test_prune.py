"""Prunes of a real S3 server while snapshots and other prunes are stopped, killed and at work: nothing is lost.

The repositories have a grace of a few seconds. What a test begins with is made once, as it takes two of them: a
workspace that is saved, and chunks of another one that nobody needs and that are due to be deleted.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from agent.config.model import ScanConfig, StorageConfig, TransferConfig
from agent.errors import DataLossError, DeadlinePassedError, StorageUnavailableError
from agent.events import Failed, Succeeded
from agent.repository import keys
from agent.repository.grace import Grace
from agent.repository.model import SnapshotSummary
from agent.snapshot.request import SnapshotRequest
from agent.storage.clock import read_clock
from tests.support.forging import set_grace
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.proxy import Fault, Proxy, Seen, answer
from tests.support.saved import LARGE
from tests.support.seaweed import SeaweedServer
from tests.support.trees import File, Seeded, build, compare
from tests.support.worker import Worker

GRACE = 8
PLACES = 5
"""Repositories that are prepared: no more than the tests take."""


class Place:
    """One repository with its workspaces: "kept", which is saved, and "other", whose snapshot is gone."""

    def __init__(self, folder: Path, storage: StorageConfig, server: tuple[str, int], seed: int) -> None:
        self.folder = folder
        self.kept, self.other, self.target = folder / "kept", folder / "other", folder / "target"
        build(os.fsencode(self.kept), [File(b"model", Seeded(20_000, seed=seed)), File(b"small", b"x" * seed)])
        build(os.fsencode(self.other), [File(b"other", Seeded(30_000, seed=-seed)), File(b"more", b"y" * seed)])
        (folder / "work").mkdir()
        self.direct = Pipelines(folder / "work", storage)
        set_grace(self.direct.repository.store, Grace(GRACE))
        self.proxy = Proxy(server)
        self.behind_proxy = Pipelines.__new__(Pipelines)
        self.behind_proxy.__dict__.update(self.direct.__dict__)
        self.behind_proxy.storage = msgspec.structs.replace(storage, endpoint=self.proxy.endpoint)
        self.workers: list[Worker] = []

    def save(self, workspace: Path) -> str:
        """Saves a workspace and returns the snapshot's id."""
        return self.direct.snapshot(os.fsencode(workspace), large_file_size=LARGE).snapshot_id

    def start_saving(self, workspace: Path) -> Worker:
        """Starts the process of a snapshot whose way to the store leads through the proxy."""
        request = SnapshotRequest(
            workspace=os.fsencode(workspace),
            staging_dir=str(self.behind_proxy._staging()),
            storage=self.behind_proxy.storage,
            transfer=TransferConfig(workers=1, retry_seconds=30.0),
            scan=ScanConfig(large_file_size=LARGE),
        )
        return self._start(Worker(request))

    def start_pruning(self) -> Worker:
        """Starts the process of a prune whose way to the store leads through the proxy."""
        return self._start(Worker(self.behind_proxy.prune_request()))

    def _start(self, worker: Worker) -> Worker:
        self.workers.append(worker)
        return worker

    def hold(self, method: str, part: str) -> None:
        """Has the proxy hold the first request of this kind."""
        held = threading.Event()

        def script(seen: Seen) -> Fault | None:
            if seen.method == method and part in seen.path and not held.is_set():
                held.set()
                return Fault(is_held=True)
            return None

        self.proxy.script = script

    def garbage(self) -> set[str]:
        """Returns the keys of chunks that no snapshot names."""
        repository = self.direct.repository
        listed = repository.list_snapshots(100)
        named = {keys.chunk(chunk.id) for found in listed for chunk in self.direct.chunks(found.id)}
        return {found.key for found in repository.store.list(keys.CHUNKS)} - named

    def check(self) -> None:
        """Every snapshot that is listed is whole, and the kept workspace comes back."""
        assert self.direct.verify(full=True).verify is not None
        listed = self.direct.repository.list_snapshots(100)
        kept = [found for found in listed if isinstance(found, SnapshotSummary) and found.workspace.endswith(b"kept")]
        shutil.rmtree(self.target, ignore_errors=True)
        self.direct.restore(os.fsencode(self.target), kept[0].id)
        assert compare(os.fsencode(self.kept), os.fsencode(self.target)) == []

    def close(self) -> None:
        """Ends what is left of it."""
        self.proxy.released.set()
        for worker in self.workers:
            worker.close()
        self.proxy.close()


def wait_for_grace(place: Place) -> None:
    """Waits until whatever is in the store now is older than the grace."""
    store = place.direct.repository.store
    begun = read_clock(store)
    while read_clock(store) - begun <= GRACE + 1:
        time.sleep(0.2)


@pytest.fixture(scope="module")
def prepared(seaweed: SeaweedServer) -> Iterator[list[Place]]:
    """Repositories whose garbage is due; the first has a snapshot in the making that is stopped before its commit."""
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-prune-", dir=memory_folder()))
    bucket = seaweed.make_bucket()
    made: list[Place] = []
    try:
        for number in range(PLACES):
            (folder / str(number)).mkdir()
            storage = seaweed.storage_config(bucket, f"place-{number}")
            made.append(Place(folder / str(number), storage, seaweed.address, number + 1))
            _leave_garbage(made[number], is_deleted=number == 0)
        _stop_before_commit(made[0])
        wait_for_grace(made[-1])
        for place in made:
            assert place.direct.prune().condemned.chunks > 0
            assert place.garbage()
        wait_for_grace(made[-1])
        yield made.copy()
    finally:
        for place in made:
            place.close()
        seaweed.start()
        seaweed.remove_bucket(bucket)
        shutil.rmtree(folder)


def _leave_garbage(place: Place, *, is_deleted: bool) -> None:
    """Saves both workspaces, and removes the snapshot of one: as it should be, or so that no tombstone protects it."""
    place.save(place.kept)
    gone = place.save(place.other)
    if is_deleted:
        place.direct.repository.delete_snapshot(gone)
        return
    for key in (keys.manifest(gone), keys.chunk_list(gone)):
        place.direct.repository.store.delete(key)
    assert place.garbage()


def _stop_before_commit(place: Place) -> None:
    """Starts a snapshot of a third workspace, and stops it when its manifest is on its way."""
    third = place.folder / "third"
    build(os.fsencode(third), [File(b"third", Seeded(40_000, seed=99))])
    place.hold("PUT", "/manifest")
    worker = place.start_saving(third)
    assert place.proxy.held.wait(60.0)
    worker.signal(signal.SIGSTOP)


@pytest.fixture
def place(prepared: list[Place]) -> Place:
    """One of them that no other test has used."""
    return prepared.pop()


@pytest.fixture
def place_of_a_stopped_snapshot(prepared: list[Place]) -> Place:
    """The first of them."""
    return prepared.pop(0)


def test_a_snapshot_that_was_stopped_before_its_commit(place_of_a_stopped_snapshot: Place) -> None:
    place = place_of_a_stopped_snapshot
    (worker,) = place.workers
    stored = place.garbage()
    place.direct.prune()
    # Its chunks are gone; what only the deleted snapshot needs was condemned later, when its tombstone was old.
    assert len(place.garbage()) < len(stored)
    place.proxy.released.set()
    worker.signal(signal.SIGCONT)
    end = worker.end()
    assert isinstance(end, Failed)
    assert end.error.reason == DeadlinePassedError.reason, end.error
    assert end.error.retryable
    assert len(place.direct.repository.list_snapshots(10)) == 1
    place.check()

    # Repeating it succeeds.
    again = place.start_saving(place.folder / "third")
    assert isinstance(again.end(), Succeeded)
    assert len(place.direct.repository.list_snapshots(10)) == 2
    place.check()


def test_a_prune_that_was_stopped_between_its_look_and_its_delete(place: Place) -> None:
    garbage = place.garbage()
    place.hold("DELETE", "/chunks/")
    prune = place.start_pruning()
    assert place.proxy.held.wait(60.0)
    prune.signal(signal.SIGSTOP)
    # What is held to be deleted is needed again now.
    place.save(place.other)
    assert place.garbage() < garbage
    place.proxy.released.set()
    prune.signal(signal.SIGCONT)
    assert isinstance(prune.end(), Succeeded)
    place.check()
    assert len(place.direct.repository.list_snapshots(10)) == 2


def test_a_prune_that_was_killed_in_the_middle(place: Place) -> None:
    place.hold("DELETE", "/chunks/")
    prune = place.start_pruning()
    assert place.proxy.held.wait(60.0)
    prune.signal(signal.SIGKILL)
    assert prune.end() is None
    place.check()
    place.direct.prune()
    assert place.garbage() == set()
    place.check()


def test_prunes_and_snapshots_at_once(place: Place) -> None:
    pipelines = []
    for number in range(4):
        folder = place.folder / f"work-{number}"
        folder.mkdir()
        pipelines.append(Pipelines(folder, place.direct.storage))
    with ThreadPoolExecutor(4) as pool:
        prunes: list[Future[object]] = [pool.submit(one.prune) for one in pipelines[:2]]
        workspaces = (place.kept, place.other)
        saves: list[Future[object]] = [
            pool.submit(_save_at_last, one, workspace) for one, workspace in zip(pipelines[2:], workspaces, strict=True)
        ]
        for future in (*prunes, *saves):
            future.result(120.0)
    assert len(place.direct.repository.list_snapshots(10)) == 3
    place.check()
    place.direct.prune()
    assert place.garbage() == set()
    place.check()


def _save_at_last(pipelines: Pipelines, workspace: Path) -> None:
    """Saves a workspace; once more if deletes that were under way took what it had uploaded."""
    try:
        pipelines.snapshot(os.fsencode(workspace), large_file_size=LARGE)
    except DeadlinePassedError:
        # It has waited until those deletes were over.
        pipelines.snapshot(os.fsencode(workspace), large_file_size=LARGE)


@pytest.mark.parametrize(
    "part",
    [
        *(f"list-type=2&prefix={{}}{what}" for what in ("condemned", "snapshots", "trash", "chunks")),
        "/manifest",
        "/condemned/",
    ],
)
def test_what_cannot_be_listed_or_read_stops_a_prune(prepared: list[Place], part: str) -> None:
    place = prepared[0]
    garbage, before = place.garbage(), len(place.proxy.seen)
    prefix = f"{place.direct.storage.prefix}/"
    wanted = part.format(prefix).replace("/", "%2F") if "{}" in part else part
    place.proxy.script = lambda seen: Fault(answer=answer(500)) if _has(seen, wanted) else None
    place.behind_proxy.transfer = msgspec.structs.replace(place.direct.transfer, retry_seconds=1.0)
    with pytest.raises(StorageUnavailableError):
        place.behind_proxy.prune()
    requests = place.proxy.seen[before:]
    assert any(_has(seen, wanted) for seen in requests)
    assert place.garbage() == garbage
    # Nothing was condemned or deleted by what is known without it.
    assert not any(
        seen.method in ("PUT", "DELETE") and ("/chunks/" in seen.path or "/condemned/" in seen.path)
        for seen in requests
    )


def test_a_manifest_that_is_damaged_stops_a_prune(prepared: list[Place], chance: random.Random) -> None:
    place = prepared[0]
    place.proxy.script = lambda seen: None
    garbage, before = place.garbage(), len(place.proxy.seen)
    repository = place.direct.repository
    name = repository.list_snapshots(1)[0].id
    whole = repository.store.read(keys.manifest(name))
    for damaged in (b"", whole[: chance.randrange(len(whole))], whole[:-1]):
        repository.store.write(keys.manifest(name), damaged)
        with pytest.raises(DataLossError, match=name):
            place.behind_proxy.prune()
    repository.store.write(keys.manifest(name), whole)
    assert place.garbage() == garbage
    assert not any(seen.method == "DELETE" and "/chunks/" in seen.path for seen in place.proxy.seen[before:])
    place.check()


def _has(seen: Seen, wanted: str) -> bool:
    """Says whether a request is of this kind, in whatever order its parameters stand."""
    return seen.method == "GET" and all(part in seen.path for part in wanted.split("&"))
