"""What engines promise that send objects from where they can be read again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.config.model import EngineChoice, StorageConfig, TransferConfig
from agent.errors import CancelledError, InvalidRequestError, StorageUnavailableError
from agent.events import Direction, Measurement
from agent.storage.choice import S5CMD, STREAM
from agent.storage.engine import SourceUploads, TransferEngine
from agent.storage.open import open_engine, open_store
from agent.storage.source import SourceLostError
from agent.storage.store import Store
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, answer

MIB = 1 << 20
SECONDS = 60.0
KEY = "chunks/ab/object"


class Bytes:
    """A source in memory.

    Args:
        data: its bytes.
        lost_in: the reading, from 1, in which it is found lost.

    Attributes:
        readings: how often it was read.
        closings: how often it was closed.
    """

    def __init__(self, data: bytes, lost_in: int = 0) -> None:
        self.size = len(data)
        self.readings = self.closings = 0
        self._data = data
        self._lost_in = lost_in

    def pieces(self) -> Iterator[memoryview]:
        self.readings += 1
        end = max(self.size - 4, 0)
        for start in range(0, end, MIB // 4):
            yield memoryview(self._data)[start : min(start + MIB // 4, end)]
        if self.readings == self._lost_in:
            raise SourceLostError("it has changed")
        yield memoryview(self._data)[end:]

    def close(self) -> None:
        self.closings += 1


@pytest.fixture(params=["stream", "auto"])
def choice(request: pytest.FixtureRequest) -> EngineChoice:
    return EngineChoice(request.param)


@pytest.fixture
def storage(s3_storage: StorageConfig, proxy: Proxy) -> StorageConfig:
    return msgspec.structs.replace(s3_storage, endpoint=proxy.endpoint)


@pytest.fixture
def engine(storage: StorageConfig, choice: EngineChoice, staging: Path) -> Iterator[TransferEngine]:
    transfer = TransferConfig(engine=choice, connections=2, staging_size=MIB, retry_seconds=4.0)
    made = open_engine(storage, transfer, str(staging), Direction.UPLOAD)
    yield made
    made.abort()


@pytest.fixture
def sources(engine: TransferEngine) -> SourceUploads:
    assert engine.sources is not None
    return engine.sources


@pytest.fixture
def store(s3_storage: StorageConfig) -> Iterator[Store]:
    opened = open_store(s3_storage)
    yield opened
    opened.close()


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [4, 5 * MIB + 3])
def test_an_object_is_stored_without_room(
    engine: TransferEngine, sources: SourceUploads, store: Store, size: int
) -> None:
    held = engine.outgoing(MIB // 2)
    source = Bytes(content(size))
    report = sources.upload(source, KEY).result(SECONDS)
    assert (report.stored_bytes, report.engine) == (size, "stream")
    assert store.read(KEY) == content(size)
    assert source.closings == 1
    held.release()
    engine.close()


FAULTS = {
    "reset": Fault(reset_after=MIB),
    "closed": Fault(end_after=MIB),
    "stalled": Fault(stall_after=MIB),
    "no answer": Fault(is_mute=True),
    "server error": Fault(answer=answer(500, "<Error><Code>InternalError</Code></Error>")),
    "refused early": Fault(answer=answer(503, "<Error><Code>SlowDown</Code></Error>"), is_early=True),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_it_is_read_again_for_every_try(sources: SourceUploads, store: Store, proxy: Proxy, fault: Fault) -> None:
    proxy.faults.append(fault)
    source = Bytes(content(3 * MIB))
    assert sources.upload(source, KEY).result(SECONDS).attempts == 2
    assert store.read(KEY) == content(3 * MIB)
    assert source.readings == 3, "once for its checksum"
    assert source.closings == 1


@pytest.mark.parametrize("lost_in", [1, 2])
def test_of_a_lost_object_nothing_is_stored(sources: SourceUploads, store: Store, lost_in: int) -> None:
    source = Bytes(content(3 * MIB), lost_in)
    with pytest.raises(SourceLostError, match="it has changed"):
        sources.upload(source, KEY).result(SECONDS)
    assert list(store.list("")) == []
    assert source.closings == 1
    assert sources.upload(Bytes(b"good"), KEY).result(SECONDS).attempts == 1
    assert store.read(KEY) == b"good"


def test_one_that_is_lost_in_a_second_try_is_lost_too(sources: SourceUploads, store: Store, proxy: Proxy) -> None:
    proxy.faults.append(Fault(reset_after=MIB))
    with pytest.raises(SourceLostError):
        sources.upload(Bytes(content(3 * MIB), lost_in=3), KEY).result(SECONDS)
    assert list(store.list("")) == []


def test_it_is_given_up_as_others_are(sources: SourceUploads, proxy: Proxy) -> None:
    proxy.default = Fault(reset_after=0)
    source = Bytes(content(MIB))
    with pytest.raises(StorageUnavailableError):
        sources.upload(source, KEY).result(SECONDS)
    assert source.closings == 1


def test_a_key_cannot_lead_elsewhere(sources: SourceUploads) -> None:
    source = Bytes(b"12345")
    with pytest.raises(InvalidRequestError):
        sources.upload(source, "../../out").result(SECONDS)
    assert source.closings == 1


def test_abort_ends_what_is_sent_and_closes_it(engine: TransferEngine, sources: SourceUploads, proxy: Proxy) -> None:
    proxy.default = Fault(stall_after=MIB)
    made = [Bytes(content(3 * MIB)) for _ in range(4)]
    futures = [sources.upload(source, f"chunks/{number}") for number, source in enumerate(made)]
    wait_until(lambda: any(source.readings == 2 for source in made), "one to be sent")
    engine.abort()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(SECONDS)
    assert [source.closings for source in made] == [1] * 4
    source = Bytes(b"late")
    with pytest.raises((CancelledError, SourceLostError)):
        sources.upload(source, KEY).result(SECONDS)
    assert source.closings == 1


def test_close_waits_for_it(engine: TransferEngine, sources: SourceUploads, store: Store) -> None:
    futures = [sources.upload(Bytes(content(MIB)), f"chunks/{number}") for number in range(6)]
    engine.close()
    assert all(future.done() for future in futures)
    assert len(list(store.list(""))) == 6


def test_room_is_preferred_where_there_is_some(engine: TransferEngine, sources: SourceUploads) -> None:
    assert not sources.are_preferred(MIB // 2)
    held = engine.outgoing(MIB)
    assert not sources.would_help(MIB // 2), "nothing is known of the link yet"
    held.release()
    assert not sources.are_preferred(MIB // 2)


@pytest.mark.parametrize("chosen", [S5CMD, STREAM])
def test_auto_sends_only_with_stream(storage: StorageConfig, store: Store, staging: Path, chosen: str) -> None:
    transfer = TransferConfig(connections=2, staging_size=MIB, retry_seconds=4.0)

    speeds = {S5CMD: 1e6, STREAM: 1e6, chosen: 1e9}
    measured = [Measurement(name, Direction.UPLOAD, speed, 1) for name, speed in speeds.items()]
    engine = open_engine(storage, transfer, str(staging), Direction.UPLOAD, measured)
    assert engine.sources is not None
    assert engine.name == chosen
    source = Bytes(content(MIB))
    future = engine.sources.upload(source, KEY)
    if chosen == STREAM:
        assert future.result(SECONDS).engine == STREAM
        assert store.read(KEY) == content(MIB)
    else:
        assert not engine.sources.would_help(MIB)
        with pytest.raises(SourceLostError):
            future.result(SECONDS)
    assert source.closings == 1
    engine.close()
