"""What every transfer engine promises."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from agent.config.model import EngineChoice, Provider, StorageConfig, TransferConfig
from agent.errors import (
    BucketNotFoundError,
    CancelledError,
    InvalidRequestError,
    NoSpaceError,
    ObjectNotFoundError,
    OutOfMemoryError,
)
from agent.storage import auto_contest
from agent.storage.engine import Incoming, TransferEngine, TransferReport
from agent.storage.open import open_engine, open_store
from agent.storage.spare import Outlook, SpareTime
from agent.storage.store import Store
from tests.contract.conftest import MakeStorage
from tests.support.processes import children_called

MIB = 1 << 20
SECONDS = 120.0
"""How long a test waits for a future before it calls it stuck."""

MakeEngine = Callable[[TransferConfig], TransferEngine]


@pytest.fixture(params=["directory", "s5cmd", "stream", "auto", "auto, both"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine that is tried; ``auto`` also with both engines at work from the first object on."""
    found: str = request.param
    if found == "auto, both":
        monkeypatch.setattr(auto_contest, "TRIAL_AFTER", -1)
        monkeypatch.setattr(SpareTime, "look", lambda *_: Outlook.WORTH_A_TRIAL)
    return found.split(",")[0]


@pytest.fixture
def choice(name: str) -> EngineChoice:
    return EngineChoice.AUTO if name == "directory" else EngineChoice(name)


@pytest.fixture
def make_storage(name: str, request: pytest.FixtureRequest) -> MakeStorage:
    made: MakeStorage = request.getfixturevalue("make_local_storage" if name == "directory" else "make_s3_storage")
    return made


@pytest.fixture
def make_engine(storage: StorageConfig, name: str, choice: EngineChoice, staging: Path) -> Iterator[MakeEngine]:
    made: list[TransferEngine] = []

    def make(transfer: TransferConfig) -> TransferEngine:
        made.append(open_engine(storage, msgspec.structs.replace(transfer, engine=choice), str(staging)))
        assert made[-1].name == ("stream" if name == "auto" else name)
        return made[-1]

    yield make
    for engine in made:
        engine.abort()
    assert children_called("s5cmd") == set()
    assert list(staging.iterdir()) == []


@pytest.fixture
def engine(make_engine: MakeEngine) -> TransferEngine:
    return make_engine(TransferConfig(retry_seconds=20.0))


@pytest.fixture
def store(storage: StorageConfig) -> Iterator[Store]:
    opened = open_store(storage)
    yield opened
    opened.close()


def start_upload(engine: TransferEngine, key: str, data: bytes) -> Future[TransferReport]:
    outgoing = engine.outgoing(len(data))
    half = len(data) // 2
    outgoing.write(data[:half])
    outgoing.write(memoryview(data)[half:])
    return engine.upload(outgoing, key)


def upload(engine: TransferEngine, key: str, data: bytes) -> None:
    report = start_upload(engine, key, data).result(SECONDS)
    assert report.stored_bytes == len(data)
    assert report.attempts >= 1
    assert report.seconds >= 0.0


def take(incoming: Incoming) -> bytes:
    data = bytes(incoming.view)
    assert incoming.report.stored_bytes == len(data)
    incoming.release()
    incoming.release()
    return data


def download(engine: TransferEngine, key: str, size: int) -> bytes:
    return take(engine.download(key, size).result(SECONDS))


@pytest.mark.parametrize("size", [0, 1, 64 * MIB + 79])
def test_objects_come_back(engine: TransferEngine, store: Store, size: int) -> None:
    data = random.Random(size).randbytes(size)
    upload(engine, "chunks/ab/object", data)
    assert [(item.key, item.size) for item in store.list("")] == [("chunks/ab/object", size)]
    assert download(engine, "chunks/ab/object", size) == data
    engine.close()


@pytest.mark.parametrize(("size", "expected"), [(5, 5000), (5, 0), (5000, 40 * MIB), (40 * MIB, 5000), (40 * MIB, 0)])
def test_an_object_of_another_size_is_delivered_too(engine: TransferEngine, size: int, expected: int) -> None:
    data = random.Random(size).randbytes(size)
    upload(engine, "chunks/ab/object", data)
    incoming = engine.download("chunks/ab/object", expected).result(SECONDS)
    assert incoming.report.stored_bytes == size
    assert min(size, expected + 1) <= len(incoming.view)
    assert incoming.view == data[: len(incoming.view)]
    incoming.release()


def test_a_missing_object_is_named(engine: TransferEngine) -> None:
    upload(engine, "chunks/ab/object", b"x")
    with pytest.raises(ObjectNotFoundError, match="chunks/ab/nothing"):
        engine.download("chunks/ab/nothing", 5).result(SECONDS)


def test_a_key_cannot_lead_elsewhere(engine: TransferEngine) -> None:
    with pytest.raises(InvalidRequestError):
        engine.download("../../out", 5).result(SECONDS)
    with pytest.raises(InvalidRequestError):
        start_upload(engine, "../../out", b"12345").result(SECONDS)


def test_a_missing_bucket_is_named(storage: StorageConfig, choice: EngineChoice, staging: Path, tmp_path: Path) -> None:
    if storage.provider is Provider.LOCAL:
        storage = msgspec.structs.replace(storage, endpoint=str(tmp_path / "missing-bucket"))
    else:
        storage = msgspec.structs.replace(storage, bucket="missing-bucket")
    engine = open_engine(storage, TransferConfig(engine=choice, retry_seconds=5.0), str(staging))
    with pytest.raises(BucketNotFoundError, match="missing-bucket"):
        engine.download("x", 5).result(SECONDS)
    engine.abort()


def test_released_room_is_not_uploaded(make_engine: MakeEngine, store: Store) -> None:
    engine = make_engine(TransferConfig(staging_size=MIB))
    for _ in range(3):
        outgoing = engine.outgoing(MIB)
        outgoing.write(b"x")
        outgoing.release()
        outgoing.release()
    engine.close()
    assert list(store.list("")) == []


def test_an_object_larger_than_the_budget_is_let_in_alone(make_engine: MakeEngine) -> None:
    engine = make_engine(TransferConfig(staging_size=MIB))
    data = random.Random(0).randbytes(3 * MIB)
    upload(engine, "large", data)
    assert download(engine, "large", len(data)) == data


def test_what_cannot_fit_is_refused_by_numbers(engine: TransferEngine) -> None:
    with pytest.raises((NoSpaceError, OutOfMemoryError), match="1,152,921,504,606,846,976"):
        engine.outgoing(1 << 60)
    upload(engine, "after", b"x")


def test_two_hundred_transfers_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine(TransferConfig(staging_size=2 * MIB, connections=16, retry_seconds=20.0))
    objects = {f"chunks/{n % 16:02x}/{n}": random.Random(n).randbytes(n * 100) for n in range(200)}
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: upload(engine, key, objects[key]), objects))
        found = list(pool.map(lambda key: download(engine, key, len(objects[key])), objects))
    assert found == list(objects.values())
    engine.close()


def test_several_uploads_of_one_object_agree(make_engine: MakeEngine, store: Store) -> None:
    engine = make_engine(TransferConfig(retry_seconds=20.0))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: upload(engine, "chunks/ab/same", b"same bytes"), range(24)))
    assert store.read("chunks/ab/same") == b"same bytes"


@pytest.mark.parametrize("direction", ["out", "in"])
def test_abort_frees_who_waits_for_room(make_engine: MakeEngine, direction: str) -> None:
    engine = make_engine(TransferConfig(staging_size=MIB))
    upload(engine, "x", bytes(MIB))
    held = engine.outgoing(MIB) if direction == "out" else engine.download("x", MIB).result(SECONDS)
    about_to_wait = threading.Barrier(2)

    def wait() -> None:
        about_to_wait.wait(SECONDS)
        with pytest.raises(CancelledError):
            engine.outgoing(MIB) if direction == "out" else engine.download("x", MIB)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        about_to_wait.wait(SECONDS)
        engine.abort()
        waiting.result(SECONDS)
    held.release()


def test_what_was_downloaded_outlives_abort(engine: TransferEngine) -> None:
    upload(engine, "x", b"12345")
    incoming = engine.download("x", 5).result(SECONDS)
    engine.abort()
    assert take(incoming) == b"12345"


def test_nothing_starts_after_abort(make_engine: MakeEngine) -> None:
    engine = make_engine(TransferConfig())
    held = engine.outgoing(10)
    engine.abort()
    engine.abort()
    with pytest.raises(CancelledError):
        engine.outgoing(10)
    with pytest.raises(CancelledError):
        engine.upload(held, "x").result(SECONDS)
    with pytest.raises(CancelledError):
        engine.download("x", 10).result(SECONDS)


def test_close_waits_for_what_is_running(make_engine: MakeEngine, store: Store) -> None:
    engine = make_engine(TransferConfig(retry_seconds=20.0))
    futures = [start_upload(engine, f"chunks/{number:02}", b"x" * 1000) for number in range(20)]
    engine.close()
    assert all(future.result(0.0).stored_bytes == 1000 for future in futures)
    assert len(list(store.list("chunks/"))) == 20
