"""Verification: what is damaged is found, attributed to snapshots and files, and nothing is ever written."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.config.model import EngineChoice
from agent.errors import CancelledError, DamagedSnapshot, DataLossError, RepositoryVersionError, SnapshotNotFoundError
from agent.events import ChunkFinished, VerifyReport
from agent.maintenance import verify as verify_module
from agent.maintenance.attribution import Attribution, attribute
from agent.maintenance.pace import BURST_SECONDS, Pace
from agent.operations.order import VerifyOrder
from agent.repository import keys
from agent.repository.manifest_layout import MAGIC
from agent.repository.model import Chunk
from agent.repository.presence import MISSING, Fault
from tests.support import proxy as scripted
from tests.support.daemon import Daemon, orders
from tests.support.damage import DAMAGES, flip, truncate
from tests.support.gpusnap import Gpusnap
from tests.support.pipelines import Pipelines, damage_of, memory_folder
from tests.support.proxy import Proxy
from tests.support.saved import LARGE, VARIED_TREE, Saved
from tests.support.seaweed import SeaweedServer
from tests.support.trees import File, Seeded, build, facts


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, removed at once."""
    path = Path(tempfile.mkdtemp(prefix="gpusnap-verify-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def saved(folder: Path) -> Saved:
    """A workspace with two snapshots; the second has one file more."""
    saved = Saved(folder, VARIED_TREE)
    build(os.fsencode(saved.workspace), [File(b"zz", Seeded(6000, seed=3))])
    saved.pipelines.snapshot(os.fsencode(saved.workspace), large_file_size=LARGE)
    return saved


def snapshots_of(error: DataLossError) -> dict[str, dict[str, set[bytes]]]:
    return {chunk.chunk_id: {item.snapshot_id: set(item.paths) for item in chunk.snapshots} for chunk in error.damaged}


def second(saved: Saved) -> str:
    return saved.pipelines.repository.snapshot_ids()[0]


def chunks_of(saved: Saved, *names: str) -> set[Chunk]:
    return {chunk for name in names for chunk in saved.pipelines.chunks(name)}


@pytest.mark.parametrize("full", [False, True])
def test_all_is_in_order(saved: Saved, full: bool) -> None:
    everything = chunks_of(saved, saved.id, second(saved))
    result = saved.pipelines.verify(full=full)
    size = sum(chunk.stored_size for chunk in everything)
    assert result.verify == VerifyReport(full, 2, len(everything), size)
    assert result.transferred_bytes == (size if full else 0)
    read = saved.pipelines.moved()
    assert read == ({chunk.id.hex() for chunk in everything} if full else set())

    one = saved.pipelines.verify(saved.id[:-2], full=full)
    assert one.snapshot_id == saved.id
    assert one.verify is not None
    assert (one.verify.snapshots, one.verify.chunks) == (1, len(chunks_of(saved, saved.id)))


@pytest.mark.parametrize("full", [False, True])
def test_nothing_is_written(saved: Saved, full: bool) -> None:
    before = facts(os.fsencode(saved.pipelines.store_folder))
    saved.pipelines.verify(full=full)
    assert facts(os.fsencode(saved.pipelines.store_folder)) == before


@pytest.mark.parametrize("path", [b"dir/large", b"small a"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_chunk_is_traced_to_snapshots_and_files(
    saved: Saved, damage: Callable[[Path], None], path: bytes
) -> None:
    chunk = saved.chunk_of(path)
    damage(saved.pipelines.chunk_file(chunk))
    with pytest.raises(DataLossError, match=chunk.id.hex()) as caught:
        saved.pipelines.verify(full=True)
    touched = {b"dir/large": {b"dir/large", b"more"}}.get(path, {b"dir/zero", b"small a", b"small link", b"small more"})
    assert damage_of(caught.value) == {chunk.id.hex(): touched}
    assert snapshots_of(caught.value) == {chunk.id.hex(): {saved.id: touched, second(saved): touched}}

    if damage is not flip:
        with pytest.raises(DataLossError) as caught:
            saved.pipelines.verify()
        assert snapshots_of(caught.value) == {chunk.id.hex(): {saved.id: touched, second(saved): touched}}


def test_damage_in_another_snapshot_does_not_matter(saved: Saved) -> None:
    (chunk,) = (
        chunks_of(saved, second(saved))
        - chunks_of(saved, saved.id)
        - {item for item in saved.pipelines.chunks(second(saved)) if item.raw_size < 6000}
    )
    saved.pipelines.chunk_file(chunk).unlink()
    saved.pipelines.verify(saved.id, full=True)
    with pytest.raises(DataLossError) as caught:
        saved.pipelines.verify("latest")
    assert snapshots_of(caught.value) == {chunk.id.hex(): {second(saved): {b"zz"}}}


def test_everything_is_missing(saved: Saved) -> None:
    count = len(chunks_of(saved, saved.id, second(saved)))
    shutil.rmtree(saved.pipelines.store_folder / "chunks")
    for full in (False, True):
        with pytest.raises(DataLossError, match=f"{count} chunks are damaged, needed by .*{saved.id}") as caught:
            saved.pipelines.verify(full=full)
        assert len(caught.value.damaged) == count


@pytest.mark.parametrize("full", [False, True])
def test_a_damaged_manifest_is_named_and_the_rest_is_verified(saved: Saved, full: bool) -> None:
    truncate(saved.pipelines.store_folder / keys.manifest(second(saved)))
    saved.pipelines.chunk_file(saved.chunk_of(b"dir/large")).unlink()
    with pytest.raises(DataLossError, match=f"{second(saved)}: the manifest is damaged") as caught:
        saved.pipelines.verify(full=full)
    manifest, chunk = caught.value.damaged
    assert (manifest.chunk_id, manifest.snapshots) == ("", (DamagedSnapshot(second(saved)),))
    assert [item.snapshot_id for item in chunk.snapshots] == [saved.id]


@pytest.mark.parametrize("which", ["first", "second"])
def test_files_are_told_although_another_manifest_does_not_tell_its_own(saved: Saved, which: str) -> None:
    """Only what looks for files finds that damage: a quick verification reads no entries before."""
    intact, damaged = (second(saved), saved.id) if which == "first" else (saved.id, second(saved))
    path = saved.pipelines.store_folder / keys.manifest(damaged)
    data = path.read_bytes()
    place = len(MAGIC) + 5
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert saved.pipelines.verify().warnings == 0
    chunk = saved.chunk_of(b"dir/large")
    saved.pipelines.chunk_file(chunk).unlink()
    with pytest.raises(DataLossError, match=f"{chunk.id.hex()}.*{damaged}: the manifest is damaged") as caught:
        saved.pipelines.verify()
    manifest, lost = caught.value.damaged
    assert (manifest.chunk_id, manifest.snapshots) == ("", (DamagedSnapshot(damaged),))
    touched = {b"dir/large", b"more"}
    assert lost.chunk_id == chunk.id.hex()
    assert {item.snapshot_id: set(item.paths) for item in lost.snapshots} == {intact: touched, damaged: set()}


def test_a_full_verification_finds_damage_anywhere_in_a_manifest(saved: Saved) -> None:
    damaged = second(saved)
    truncate(saved.pipelines.store_folder / keys.manifest(damaged))
    # The next snapshot has a warning of that, and warnings are a section of their own.
    name = saved.pipelines.snapshot(os.fsencode(saved.workspace), large_file_size=LARGE).snapshot_id
    saved.pipelines.repository.delete_snapshot(damaged)
    path = saved.pipelines.store_folder / keys.manifest(name)
    data = path.read_bytes()
    assert saved.pipelines.repository.warnings(name, 1)
    for place in range(len(MAGIC), len(data), 19):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises((DataLossError, RepositoryVersionError), match=name):
            saved.pipelines.verify(name, full=True)


def test_a_missing_list_of_chunks_is_a_warning(saved: Saved) -> None:
    (saved.pipelines.store_folder / keys.chunk_list(saved.id)).unlink()
    assert saved.pipelines.verify(second(saved)).warnings == 0
    for name in ("", saved.id):
        assert saved.pipelines.verify(name).warnings == 1
        assert set(saved.pipelines.warned()) == {"CHUNK_LIST_MISSING"}


def test_what_an_interrupted_snapshot_left_does_not_disturb(saved: Saved) -> None:
    saved.pipelines.repository.store.write(keys.chunk_list("20271123T110512Z-00000000"), b"chunks/00/00\n")
    assert saved.pipelines.verify(full=True).warnings == 0


def test_an_unknown_snapshot(saved: Saved) -> None:
    with pytest.raises(SnapshotNotFoundError):
        saved.pipelines.verify("20271123T110512Z-00000000")


def test_an_empty_repository_is_in_order(folder: Path) -> None:
    assert Pipelines(folder).verify(full=True).verify == VerifyReport(True, 0, 0, 0)


def test_a_chunk_that_no_snapshot_needs_any_more_is_no_loss(saved: Saved) -> None:
    fault = Fault(saved.chunk_of(b"dir/large"), MISSING)
    repository = saved.pipelines.repository
    ids = repository.snapshot_ids()
    repository.delete_snapshot(ids[0])
    (damaged,) = attribute(repository, [fault], ids, lambda: None).chunks
    assert [item.snapshot_id for item in damaged.snapshots] == [saved.id]
    repository.delete_snapshot(saved.id)
    assert attribute(repository, [fault], ids, lambda: None) == Attribution([], [])


@pytest.mark.parametrize("full", [False, True])
def test_it_can_be_cancelled(saved: Saved, full: bool) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        saved.pipelines.verify(full=full, cancel=cancel)


def test_no_more_than_the_rate_is_read(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only moves while the verification waits."""
    now = 100.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(verify_module, "Pace", functools.partial(Pace, clock=lambda: now, sleep=wait))
    sizes = [chunk.stored_size for chunk in chunks_of(saved, saved.id, second(saved))]
    saved.pipelines.verify(full=True, rate=1000)
    # All of it waits but what comes last, whichever that is.
    assert now - 100.0 + BURST_SECONDS >= (sum(sizes) - max(sizes)) / 1000
    assert now - 100.0 <= sum(sizes) / 1000


# On a real S3 server.


@pytest.fixture
def remote(folder: Path, seaweed: SeaweedServer, bucket: str, proxy: Proxy) -> Pipelines:
    """One snapshot on the server; what comes next goes through the proxy."""
    storage = seaweed.storage_config(bucket, "models")
    made = Pipelines(folder, storage)
    build(folder.joinpath("workspace").as_posix().encode(), VARIED_TREE)
    made.snapshot(os.fsencode(folder / "workspace"), large_file_size=LARGE)
    made.storage = msgspec.structs.replace(storage, endpoint=proxy.endpoint)
    return made


def choose(pipelines: Pipelines, engine: EngineChoice) -> None:
    pipelines.transfer = msgspec.structs.replace(pipelines.transfer, engine=engine)


@pytest.mark.parametrize("engine", [EngineChoice.S5CMD, EngineChoice.STREAM])
def test_a_store_is_only_read(remote: Pipelines, proxy: Proxy, engine: EngineChoice) -> None:
    choose(remote, engine)
    for full in (False, True):
        assert remote.verify(full=full).verify is not None
    assert {seen.method for seen in proxy.seen} <= {"GET", "HEAD"}


def test_a_missing_object_is_found_in_a_store(remote: Pipelines, seaweed: SeaweedServer, bucket: str) -> None:
    chunk = remote.chunks(remote.repository.resolve("latest"))[1]
    seaweed.client().delete_object(Bucket=bucket, Key=f"models/{keys.chunk(chunk.id)}")
    for full in (False, True):
        with pytest.raises(DataLossError, match=MISSING) as caught:
            remote.verify(full=full)
        assert [item.chunk_id for item in caught.value.damaged] == [chunk.id.hex()]


def test_damage_on_the_way_is_no_loss(remote: Pipelines, proxy: Proxy) -> None:
    choose(remote, EngineChoice.STREAM)
    before = len(proxy.seen)
    remote.verify()
    # A full verification reads the manifest and lists as the quick one does, and then gets the chunks.
    proxy.faults.extend([scripted.Fault()] * (len(proxy.seen) - before - 1))
    proxy.faults.extend([scripted.Fault(answer=scripted.answer(200, "x" * 600))] * 2)
    before = len(proxy.seen)
    result = remote.verify(full=True)
    assert len(proxy.faults) == 0
    assert sum(event.attempts > 1 for event in remote.events if isinstance(event, ChunkFinished)) >= 1
    assert result.verify is not None


# Through an agent.


def test_the_command_says_what_is_lost(daemon: Daemon, workspace: Path) -> None:
    gpusnap = Gpusnap(daemon.address)
    snapshot = gpusnap.run("snapshot", str(workspace)).stdout.strip()
    for words in (("verify",), ("verify", "latest", "--full", "--rate", "50MiB"), ("verify", snapshot, "--detach")):
        done = gpusnap.run(*words)
        assert done.code == 0, done.stderr
    name = done.stdout.strip()
    assert name.startswith("verify-")
    assert gpusnap.run("watch", name).code == 0
    assert [(order.full, order.bytes_per_second) for order in orders(daemon, VerifyOrder)] == [
        (False, 0),
        (True, 50 << 20),
        (False, 0),
    ]

    (chunk,) = {path for path in (daemon.repository / "chunks").glob("*/*") if path.stat().st_size > 10_000} or {
        max((daemon.repository / "chunks").glob("*/*"), key=lambda path: path.stat().st_size)
    }
    chunk.unlink()
    done = gpusnap.run("verify")
    assert done.code == 5
    assert chunk.name in done.stderr
    assert f"needed by {snapshot}" in done.stderr
    assert "model.safetensors" in done.stderr
    done = gpusnap.run("verify", "--json")
    assert done.code == 5
    (completed,) = [record for record in done.records if record["record"] == "completed"]
    (damaged,) = completed["error"]["damaged"]
    assert damaged["chunk_id"] == chunk.name
    assert damaged["snapshots"][0]["snapshot_id"] == snapshot


@pytest.mark.parametrize("words", [("--rate", "50MiB"), ("--full", "--rate", "fast"), ("--rate", "-1"), ("a", "b")])
def test_a_wrong_command_line(words: tuple[str, ...]) -> None:
    assert Gpusnap("127.0.0.1:1").run("verify", *words).code == 2
