"""What only the engine promises that compares the two others and keeps one."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest

from agent.config.model import StorageConfig, TransferConfig
from agent.errors import CancelledError, EngineUnavailableError
from agent.events import Direction, Measurement
from agent.pipeline.processors import Reading
from agent.storage import auto_contest, spare, trial
from agent.storage.auto import AutoEngine
from agent.storage.choice import EngineAccount, other
from agent.storage.engine import Incoming, TransferReport
from agent.storage.open import open_engine, open_store
from agent.storage.spare import Outlook, SpareTime
from agent.storage.store import Store
from tests.support.processes import children_called, wait_until
from tests.support.proxy import Proxy
from tests.support.seaweed import SeaweedServer

MIB = 1 << 20
SIZE = 2 * MIB
COUNT = 40
ROUNDS = 50
SECONDS = 120.0
SMALL = TransferConfig(staging_size=12 * MIB, connections=8, retry_seconds=20.0)
UP, DOWN = Direction.UPLOAD, Direction.DOWNLOAD

MakeEngine = Callable[..., AutoEngine]


@pytest.fixture
def _small_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a trial begin and end with few bytes, however busy the machine is."""
    monkeypatch.setattr(auto_contest, "TRIAL_AFTER", SIZE)
    monkeypatch.setattr(SpareTime, "look", lambda *_: Outlook.WORTH_A_TRIAL)
    monkeypatch.setattr(trial, "WARM_BYTES", SIZE)
    monkeypatch.setattr(trial, "ENOUGH_BYTES", 6 * SIZE)
    monkeypatch.setattr(trial, "ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(trial, "CLEAR_BYTES", 6 * SIZE)
    monkeypatch.setattr(trial, "CLEAR_SECONDS", 0.0)
    # However long s5cmd takes to start on a machine that is busy.
    monkeypatch.setattr(trial, "MOST_BYTES", 10**12)
    monkeypatch.setattr(trial, "DEAD_BYTES", 10**12)


@pytest.fixture(scope="module")
def data() -> list[bytes]:
    chance = random.Random(3)
    return [chance.randbytes(SIZE) for _ in range(4)]


@pytest.fixture(scope="module")
def s3_storage(seaweed: SeaweedServer, contract_bucket: str, data: list[bytes]) -> StorageConfig:
    """One repository for all tests here, with the objects that they fetch."""
    storage = seaweed.storage_config(contract_bucket, f"auto {uuid.uuid4().hex[:8]}")
    store = open_store(storage)
    for number in range(COUNT):
        store.write(key(number), data[number % 4])
    store.close()
    return storage


@pytest.fixture
def store(s3_storage: StorageConfig) -> Iterator[Store]:
    opened = open_store(s3_storage)
    yield opened
    opened.close()


@pytest.fixture
def make_engine(s3_storage: StorageConfig, staging: Path) -> Iterator[MakeEngine]:
    made: list[AutoEngine] = []

    def make(
        direction: Direction,
        transfer: TransferConfig = SMALL,
        measured: list[Measurement] | None = None,
        storage: StorageConfig = s3_storage,
    ) -> AutoEngine:
        engine = open_engine(storage, transfer, str(staging), direction, measured or [])
        assert isinstance(engine, AutoEngine)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.abort()
    assert children_called("s5cmd") == set()
    assert [thread for thread in threading.enumerate() if thread.name.startswith(("stream", "s5cmd", "auto"))] == []
    assert list(staging.iterdir()) == []


def key(number: int) -> str:
    return f"chunks/{number:02}"


def fetch_all(engine: AutoEngine, data: list[bytes], count: int = COUNT) -> Counter[str]:
    """Fetches objects as fast as it can; returns how many each engine has moved."""
    # Threads append at the same time without losing any.
    moved: list[str] = []
    futures = []

    def check(number: int, future: Future[Incoming]) -> None:
        if future.exception() is None:
            incoming = future.result()
            is_right = incoming.view == data[number % 4]
            incoming.release()
            moved.append(incoming.report.engine if is_right else "wrong")

    for number in range(count):
        future = engine.download(key(number), SIZE)
        future.add_done_callback(lambda done, number=number: check(number, done))  # type: ignore[misc]
        futures.append(future)
    for future in futures:
        future.result(SECONDS)
    wait_until(lambda: len(moved) == count, "all have been looked at")
    assert "wrong" not in moved
    return Counter(moved)


def store_all(engine: AutoEngine, data: list[bytes], prefix: str) -> Counter[str]:
    """Stores as many objects as fast as it can; returns how many each engine has moved."""
    futures: list[Future[TransferReport]] = []
    for number in range(COUNT):
        outgoing = engine.outgoing(SIZE)
        outgoing.write(data[number % 4])
        futures.append(engine.upload(outgoing, f"{prefix}/{number:02}"))
    return Counter(future.result(SECONDS).engine for future in futures)


def check_stored(store: Store, data: list[bytes], prefix: str) -> None:
    for number in range(COUNT):
        assert store.read(f"{prefix}/{number:02}") == data[number % 4]


def program(tmp_path: Path, run: str) -> str:
    """Makes an s5cmd that says its version and does something else when it shall run."""
    path = tmp_path / "s5cmd"
    path.write_text(f'#!/bin/sh\n[ "$1" = version ] && echo v2.3.0 && exit\n{run}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def measured(s5cmd: float, stream: float) -> list[Measurement]:
    return [
        Measurement(engine, direction, speed, 1)
        for engine, speed in (("s5cmd", s5cmd), ("stream", stream))
        for direction in (UP, DOWN)
    ]


@pytest.mark.usefixtures("_small_trials")
def test_both_take_part_and_the_faster_stays(
    make_engine: MakeEngine, data: list[bytes], store: Store, proxy: Proxy, s3_storage: StorageConfig
) -> None:
    through = msgspec.structs.replace(s3_storage, endpoint=proxy.endpoint)
    for direction in (DOWN, UP):
        engine = make_engine(direction, storage=through)
        moved: Counter[str] = Counter()
        for _ in range(ROUNDS):
            moved += fetch_all(engine, data) if direction is DOWN else store_all(engine, data, "stored")
            if engine.account().measurements:
                break
        engine.close()
        account = engine.account()
        assert moved.keys() == {"s5cmd", "stream"}
        assert account.engine == engine.name
        assert account.reason.startswith("measured in this operation, side by side: ")
        assert f"{direction.value} at " in account.reason
        assert {(item.engine, item.direction) for item in account.measurements} == {
            ("s5cmd", direction),
            ("stream", direction),
        }
        assert all(item.bytes_per_second > 0 and item.time_ns > 0 for item in account.measurements)
    check_stored(store, data, "stored")


@pytest.mark.usefixtures("_small_trials")
def test_the_loser_ends_while_the_winner_works_on(make_engine: MakeEngine, data: list[bytes]) -> None:
    engine = make_engine(DOWN)
    for _ in range(ROUNDS):
        fetch_all(engine, data)
        if engine.account().measurements:
            break
    winner = engine.account().engine
    loser = other(winner)
    wait_until(lambda: engine._gate.get(loser) is None, "the loser has ended")
    assert (children_called("s5cmd") == set()) is (loser == "s5cmd")
    assert any(thread.name.startswith("stream") for thread in threading.enumerate()) is (winner == "stream")
    wait_until(lambda: getattr(engine._gate.get(winner), "limit", 0) == SMALL.staging_size, "the winner has all")
    incoming = engine.download(key(1), SIZE).result(SECONDS)
    assert (incoming.report.engine, incoming.view == data[1]) == (winner, True)
    incoming.release()
    engine.close()


@pytest.mark.usefixtures("_small_trials")
def test_both_together_stay_within_what_is_configured(
    make_engine: MakeEngine, data: list[bytes], monkeypatch: pytest.MonkeyPatch, proxy: Proxy, s3_storage: StorageConfig
) -> None:
    monkeypatch.setattr(trial, "ENOUGH_BYTES", 10**12)
    monkeypatch.setattr(trial, "CLEAR_BYTES", 10**12)
    engine = make_engine(DOWN, storage=msgspec.structs.replace(s3_storage, endpoint=proxy.endpoint))
    moved: Counter[str] = Counter()
    for _ in range(ROUNDS):
        moved += fetch_all(engine, data)
        if moved["s5cmd"]:
            break
    assert moved.keys() == {"s5cmd", "stream"}
    assert proxy.most_connections <= SMALL.connections
    assert engine.account().reason == "the operation ended before the engines could be compared"
    assert engine.account().measurements == ()


def test_what_is_small_starts_no_process(make_engine: MakeEngine, data: list[bytes]) -> None:
    engine = make_engine(DOWN, msgspec.structs.replace(SMALL, s5cmd_path="/nowhere/s5cmd"))
    assert fetch_all(engine, data, 10) == {"stream": 10}
    engine.close()
    assert engine.account().reason == "too little to compare engines"


class Processors:
    """What the kernel would say of one that is busy, or of one that has nothing to do."""

    def __init__(self) -> None:
        self.time = 0.0
        self.idle = 0.0
        self.is_busy = True

    def read(self) -> Reading:
        self.time += 1.0
        self.idle += 0.2 if self.is_busy else 1.0
        return Reading(self.time, self.idle)


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> Processors:
    """What ``auto`` is told of the processors, at which it looks again and again."""
    made = Processors()
    monkeypatch.setattr(auto_contest, "TRIAL_AFTER", SIZE)
    monkeypatch.setattr(auto_contest, "SpareTime", lambda: SpareTime(made.read))
    monkeypatch.setattr(spare, "LOOK_BYTES", SIZE)
    monkeypatch.setattr(spare, "LOOK_SECONDS", 0.0)
    return made


def test_no_process_is_started_while_the_processors_are_busy(
    make_engine: MakeEngine, data: list[bytes], processors: Processors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "OWN_SHARE", 0.0)
    engine = make_engine(DOWN, msgspec.structs.replace(SMALL, s5cmd_path="/nowhere/s5cmd"))
    assert fetch_all(engine, data) == {"stream": COUNT}
    assert engine.account().reason == "the processors had no time for s5cmd, which takes more of it than stream"
    processors.is_busy = False
    assert fetch_all(engine, data) == {"stream": COUNT}
    engine.close()
    assert engine.account().reason.startswith("s5cmd cannot be used: "), "it was wanted then"


def test_a_network_that_holds_transfers_up_is_left_to_stream(
    make_engine: MakeEngine, data: list[bytes], processors: Processors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "OWN_SHARE", 1e9)
    processors.is_busy = False
    engine = make_engine(DOWN, msgspec.structs.replace(SMALL, s5cmd_path="/nowhere/s5cmd"))
    assert fetch_all(engine, data) == {"stream": COUNT}
    reason = "transfers wait for the network or the disk, and not for stream: s5cmd could move no more"
    assert engine.account() == EngineAccount("stream", reason)
    wait_until(lambda: getattr(engine._gate.get("stream"), "limit", 0) == SMALL.staging_size, "stream has all")


@pytest.mark.usefixtures("_small_trials")
@pytest.mark.parametrize("kept", [[], measured(9e9, 1.0)])
def test_a_missing_s5cmd_is_replaced(make_engine: MakeEngine, data: list[bytes], kept: list[Measurement]) -> None:
    engine = make_engine(DOWN, msgspec.structs.replace(SMALL, s5cmd_path="/nowhere/s5cmd"), kept)
    assert fetch_all(engine, data) == {"stream": COUNT}
    engine.close()
    assert engine.account().engine == "stream"
    assert engine.account().reason.startswith("s5cmd cannot be used: ")
    assert "/nowhere/s5cmd" in engine.account().reason


@pytest.mark.usefixtures("_small_trials")
@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("kept", [[], measured(9e9, 1.0)], ids=["trial", "chosen"])
def test_an_s5cmd_that_dies_is_replaced_and_nothing_is_lost(
    make_engine: MakeEngine, data: list[bytes], store: Store, tmp_path: Path, direction: Direction,
    kept: list[Measurement],
) -> None:  # fmt: skip
    engine = make_engine(direction, msgspec.structs.replace(SMALL, s5cmd_path=program(tmp_path, "exit 3")), kept)
    moved = fetch_all(engine, data) if direction is DOWN else store_all(engine, data, "rescued")
    engine.close()
    assert moved == {"stream": COUNT}
    assert engine.account().engine == "stream"
    if direction is UP:
        check_stored(store, data, "rescued")
    if kept:
        assert engine.account().reason.startswith("s5cmd cannot be used: s5cmd ended with status 3, 4 times in a row")


def test_without_any_engine_that_works_the_error_is_that_of_the_first(
    make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = msgspec.structs.replace(SMALL, s5cmd_path=program(tmp_path, "exit 3"))
    engine = make_engine(DOWN, transfer, measured(9e9, 1.0))
    engine._failed.add("stream")
    with pytest.raises(EngineUnavailableError, match="status 3"):
        engine.download(key(0), SIZE).result(SECONDS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_staging_folder_that_is_too_small_is_not_needed(
    make_engine: MakeEngine, data: list[bytes], staging: Path
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MIB}", "none", staging], check=True)
    try:
        engine = make_engine(DOWN, SMALL, measured(9e9, 1.0))
        assert fetch_all(engine, data) == {"stream": COUNT}
        engine.close()
        assert engine.account().reason.startswith(f"s5cmd cannot be used: the staging folder {staging} has ")
    finally:
        subprocess.run(["umount", staging], check=True)


@pytest.mark.usefixtures("_small_trials")
def test_a_killed_s5cmd_is_not_noticed(make_engine: MakeEngine, data: list[bytes]) -> None:
    engine = make_engine(DOWN, SMALL, measured(9e9, 1.0))
    futures = [engine.download(key(number), SIZE) for number in range(3)]
    wait_until(lambda: children_called("s5cmd"), "s5cmd runs")
    for process in children_called("s5cmd"):
        os.kill(process, signal.SIGKILL)
    for number, future in enumerate(futures):
        incoming = future.result(SECONDS)
        assert (incoming.view == data[number % 4], incoming.report.engine) == (True, "s5cmd")
        incoming.release()
    engine.close()


@pytest.mark.usefixtures("_small_trials")
def test_abort_in_the_middle_of_a_trial_leaves_nothing(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "ENOUGH_BYTES", 10**12)
    engine = make_engine(DOWN)
    ended = threading.Event()

    def ask_on() -> None:
        try:
            while True:
                engine.download(key(0), SIZE).add_done_callback(
                    lambda done: done.result().release() if done.exception() is None else None
                )
        except CancelledError:
            ended.set()

    asking = threading.Thread(target=ask_on)
    asking.start()
    wait_until(lambda: children_called("s5cmd"), "s5cmd runs")
    engine.abort()
    assert ended.wait(SECONDS)
    asking.join()


def test_one_connection_is_not_divided(make_engine: MakeEngine, data: list[bytes]) -> None:
    engine = make_engine(DOWN, msgspec.structs.replace(SMALL, connections=1))
    assert fetch_all(engine, data) == {"stream": COUNT}
    engine.close()
    assert engine.account().reason == "one connection is too few to compare engines"
