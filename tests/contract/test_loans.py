"""Connections that the stream engine lends: objects arrive over them as they should, or the engine is left to do it."""

from __future__ import annotations

import itertools
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.config.model import Credentials, EngineChoice, StorageConfig, TransferConfig
from agent.errors import CancelledError, GpusnapError, ObjectNotFoundError
from agent.storage import borrower, stream_loans
from agent.storage.auto import AutoEngine
from agent.storage.borrower import Borrower, NotFetchedError
from agent.storage.engine import Loans, TransferEngine
from agent.storage.loan import Arrival, Lent
from agent.storage.open import open_engine
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, answer
from tests.support.seaweed import SeaweedServer

MIB = 1 << 20
SIZE = 6 * MIB + 79
PIECE = MIB + 11
CUT = 5 * MIB // 2 + 1

MakeEngine = Callable[..., TransferEngine]


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(8).randbytes(SIZE)


@pytest.fixture(scope="module")
def s3_storage(make_stored: Callable[[bytes], StorageConfig], data: bytes) -> StorageConfig:
    """One repository for all tests here, with the object that they fetch."""
    return make_stored(data)


@pytest.fixture(params=[EngineChoice.STREAM, EngineChoice.AUTO])
def make_engine(request: pytest.FixtureRequest, s3_storage: StorageConfig, proxy: Proxy) -> Iterator[MakeEngine]:
    """Makes engines that reach the store through the proxy."""
    made: list[TransferEngine] = []

    def make(storage: StorageConfig = s3_storage, via: Proxy = proxy) -> TransferEngine:
        transfer = TransferConfig(engine=request.param, connections=8, retry_seconds=4.0, staging_size=100 * MIB)
        made.append(open_engine(msgspec.structs.replace(storage, endpoint=via.endpoint), transfer, "/nowhere"))
        return made[-1]

    yield make
    for engine in made:
        engine.abort()


def loans_of(engine: TransferEngine) -> Loans:
    assert engine.loans is not None
    return engine.loans


def connections_of(engine: TransferEngine) -> int:
    return 4 if isinstance(engine, AutoEngine) else 8  # ``auto`` begins with half of all


def lend(engine: TransferEngine, key: str = "object", size: int = SIZE) -> Lent:
    lent = loans_of(engine).lend(key, size)
    assert lent is not None
    return lent


def fetch(borrower: Borrower, lent: Lent) -> tuple[bytes, Arrival]:
    """Fetches an object over a lent connection, which it gives back."""
    arriving = borrower.fetch(lent.loan)
    received = bytearray(lent.loan.size)
    for start in range(0, len(received), PIECE):
        arriving.fill(memoryview(received)[start : start + PIECE])
    lent.give_back(arriving.arrival)
    return bytes(received), arriving.arrival


def test_objects_arrive_over_one_connection(make_engine: MakeEngine, proxy: Proxy, data: bytes) -> None:
    engine, borrower = make_engine(), Borrower()
    for _ in range(3):
        received, arrival = fetch(borrower, lend(engine))
        assert received == data
        assert arrival.attempts == 1
        assert arrival.seconds >= arrival.waited >= 0
    assert proxy.connections == 1
    assert loans_of(engine).are_given
    borrower.close()
    wait_until(lambda: proxy.open_connections == 0, "the connection is closed")


@pytest.mark.parametrize(
    "fault",
    [Fault(reset_after=CUT), Fault(end_after=CUT), Fault(stall_after=CUT)],
    ids=["reset", "closed", "stalled"],
)
def test_an_object_is_continued_from_the_last_byte(
    make_engine: MakeEngine, proxy: Proxy, data: bytes, fault: Fault
) -> None:
    proxy.faults.append(fault)
    received, arrival = fetch(Borrower(), lend(make_engine()))
    assert received == data
    assert arrival.attempts == 2
    assert len(proxy.seen) == 2
    if fault.reset_after < 0:
        assert proxy.seen[1].range == f"bytes={CUT}-"
        wait_until(lambda: sum(seen.passed for seen in proxy.seen) == SIZE, "every byte came once")


def test_a_connection_that_breaks_often_is_used_as_long_as_bytes_come(
    make_engine: MakeEngine, proxy: Proxy, data: bytes
) -> None:
    proxy.default = Fault(end_after=256 << 10)
    received, arrival = fetch(Borrower(), lend(make_engine()))
    assert received == data
    assert arrival.attempts == -(-SIZE // (256 << 10))


def test_a_kept_connection_that_the_server_closed_costs_no_attempt(
    make_engine: MakeEngine, proxy: Proxy, data: bytes
) -> None:
    proxy.default = Fault(closes_after=True)
    engine, borrower = make_engine(), Borrower()
    for _ in range(3):
        received, arrival = fetch(borrower, lend(engine))
        assert received == data
        assert arrival.attempts == 1


LEFT = {
    "server error": Fault(answer=answer(500, "<Error><Code>InternalError</Code></Error>")),
    "denied": Fault(answer=answer(403, "<Error><Code>AccessDenied</Code></Error>")),
    "too many": Fault(answer=answer(429)),
    "no answer": Fault(is_mute=True),
    "reset at once": Fault(reset_after=0),
    "no HTTP": Fault(answer=b"SSH-2.0-OpenSSH\r\n\r\n", closes_after=True),
    "no length": Fault(answer=b"HTTP/1.1 200 OK\r\n\r\nabc", closes_after=True),
    "longer": Fault(more_length=1000),
    "shorter": Fault(more_length=-1000),
    "another part": Fault(answer=b"HTTP/1.1 206 OK\r\ncontent-length: 1\r\ncontent-range: bytes 5-5/9\r\n\r\nx"),
}


@pytest.mark.parametrize("fault", LEFT.values(), ids=LEFT.keys())
def test_what_does_not_come_is_left_to_the_engine(
    make_engine: MakeEngine, proxy: Proxy, data: bytes, fault: Fault
) -> None:
    proxy.faults.append(fault)
    engine, borrower = make_engine(), Borrower()
    lent = lend(engine)
    with pytest.raises(NotFetchedError):
        fetch(borrower, lent)
    lent.give_back()
    assert len(proxy.seen) == 1
    assert not loans_of(engine).are_given
    assert loans_of(engine).lend("object", SIZE) is None
    incoming = engine.download("object", SIZE).result(60.0)
    assert incoming.view == data
    incoming.release()


def test_a_server_that_ignores_ranges_is_left_to_the_engine(make_engine: MakeEngine, proxy: Proxy) -> None:
    proxy.faults.extend([Fault(end_after=CUT), Fault(ignores_range=True)])
    with pytest.raises(NotFetchedError):
        fetch(Borrower(), lend(make_engine()))
    assert len(proxy.seen) == 2


def test_a_missing_object_is_named_by_the_engine(make_engine: MakeEngine, proxy: Proxy) -> None:
    engine = make_engine()
    lent = lend(engine, "no-such")
    with pytest.raises(NotFetchedError):
        fetch(Borrower(), lent)
    lent.give_back()
    with pytest.raises(ObjectNotFoundError, match="no-such"):
        engine.download("no-such", SIZE).result(60.0)


def test_a_slow_connection_is_given_up(make_engine: MakeEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borrower, "SETTLE_SECONDS", 0.3)
    proxy.default = Fault(piece_seconds=0.05)  # five seconds for all of it
    with pytest.raises(NotFetchedError):
        fetch(Borrower(), lend(make_engine()))
    assert 0 < proxy.seen[0].passed < SIZE // 2


@pytest.mark.parametrize("waited", [0.9, 1.1], ids=["enough", "too little"])
def test_connections_are_lent_as_long_as_each_carries_enough(make_engine: MakeEngine, waited: float) -> None:
    engine = make_engine()
    size = stream_loans.JUDGED_BYTES // 4
    for number in range(4):
        assert loans_of(engine).are_given, f"{number} objects were judged too soon"
        lend(engine, size=size).give_back(Arrival(5.0, size * stream_loans.LONGEST_WAIT * waited, 1))
    assert loans_of(engine).are_given == (waited < 1)


def test_lent_connections_count_among_those_that_are_allowed(
    make_engine: MakeEngine, proxy: Proxy, data: bytes
) -> None:
    engine = make_engine()
    half = list(itertools.islice(iter(lambda: loans_of(engine).lend("object", SIZE), None), 8))
    most = connections_of(engine)
    assert len(half) == most // 2
    for future in [engine.download("object", SIZE) for _ in range(6)]:
        incoming = future.result(60.0)
        assert incoming.view == data
        incoming.release()
    assert proxy.most_connections <= most - len(half)
    for lent in half:
        assert fetch(Borrower(), lent)[0] == data
    assert loans_of(engine).are_given


def test_whoever_waits_for_a_connection_is_woken_by_an_abort(make_engine: MakeEngine, proxy: Proxy) -> None:
    proxy.default = Fault(stall_after=CUT)
    engine = make_engine()
    futures = [engine.download("object", SIZE) for _ in range(8)]
    wait_until(lambda: len(proxy.seen) == connections_of(engine), "the connections are in use")
    outcomes: list[Exception | Lent | None] = []

    def ask() -> None:
        try:
            outcomes.append(loans_of(engine).lend("object", SIZE))
        except GpusnapError as error:
            outcomes.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    engine.abort()
    asking.join(30.0)
    assert len(outcomes) == 1
    assert isinstance(outcomes[0], CancelledError) or outcomes[0] is None
    for future in futures:
        assert isinstance(future.exception(30.0), CancelledError)


def test_a_loan_holds_no_secret(make_engine: MakeEngine, s3_storage: StorageConfig) -> None:
    keys = s3_storage.credentials
    assert keys is not None
    loan = lend(make_engine()).loan
    assert keys.access_key_id.encode() in loan.request  # it is signed
    assert keys.secret_access_key.encode() not in msgspec.msgpack.encode(loan)


def test_without_credentials_the_engine_says_so(
    make_engine: MakeEngine, s3_storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    engine = make_engine(storage=msgspec.structs.replace(s3_storage, credentials=None))
    for _ in range(8):
        assert loans_of(engine).lend("object", SIZE) is None


def test_wrong_keys_are_left_to_the_engine(make_engine: MakeEngine, s3_storage: StorageConfig) -> None:
    wrong = msgspec.structs.replace(s3_storage, credentials=Credentials("another-key", "not-the-secret-at-all"))
    lent = lend(make_engine(storage=wrong))
    with pytest.raises(NotFetchedError):
        fetch(Borrower(), lent)


def test_https_is_verified_and_continued(
    make_engine: MakeEngine,
    seaweed: SeaweedServer,
    data: bytes,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    proxy = Proxy(seaweed.address, context)
    distrusting = lend(make_engine(via=proxy))
    with pytest.raises(NotFetchedError):
        fetch(Borrower(), distrusting)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[1]))
    engine, borrower = make_engine(via=proxy), Borrower()
    for fault in (Fault(end_after=MIB), Fault(stall_after=MIB), Fault()):
        proxy.faults.append(fault)
        received, arrival = fetch(borrower, lend(engine))
        assert received == data
        assert arrival.attempts == (1 if fault == Fault() else 2)
    proxy.close()
