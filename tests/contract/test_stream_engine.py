"""What only the stream engine promises: whatever the network does, an object arrives, or the right error in time."""

from __future__ import annotations

import random
import re
import socket
import ssl
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest

from agent.config.model import Credentials, EngineChoice, StorageConfig, TransferConfig
from agent.errors import (
    BucketNotFoundError,
    CancelledError,
    GpusnapError,
    ObjectNotFoundError,
    StorageAccessDeniedError,
    StorageUnavailableError,
)
from agent.storage.engine import TransferEngine, TransferReport
from agent.storage.open import open_engine, open_store
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, answer
from tests.support.seaweed import SeaweedServer

MIB = 1 << 20
SIZE = 6 * MIB + 79
SECONDS = 60.0
CUT = 5 * MIB // 2 + 1

MakeEngine = Callable[..., TransferEngine]


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(7).randbytes(SIZE)


@pytest.fixture(scope="module")
def s3_storage(make_stored: Callable[[bytes], StorageConfig], data: bytes) -> StorageConfig:
    """One repository for all tests here, with the object that they fetch."""
    return make_stored(data)


@pytest.fixture
def make_engine(s3_storage: StorageConfig, proxy: Proxy) -> Iterator[MakeEngine]:
    """Makes engines that reach the store through the proxy; by default with one connection."""
    made: list[TransferEngine] = []

    def make(connections: int = 1, retry_seconds: float = 4.0, storage: StorageConfig = s3_storage) -> TransferEngine:
        transfer = TransferConfig(
            engine=EngineChoice.STREAM, connections=connections, retry_seconds=retry_seconds, staging_size=100 * MIB
        )
        made.append(open_engine(through(proxy, storage), transfer, "/nowhere"))
        return made[-1]

    yield make
    for engine in made:
        engine.abort()


def through(proxy: Proxy, storage: StorageConfig) -> StorageConfig:
    return msgspec.structs.replace(storage, endpoint=proxy.endpoint)


def start_upload(engine: TransferEngine, key: str, data: bytes) -> Future[TransferReport]:
    outgoing = engine.outgoing(len(data))
    outgoing.write(data)
    return engine.upload(outgoing, key)


def fetch(engine: TransferEngine, data: bytes, key: str = "object") -> int:
    """Fetches the object, compares it, and returns how often it was tried."""
    incoming = engine.download(key, len(data)).result(SECONDS)
    assert incoming.view == data
    incoming.release()
    return incoming.report.attempts


RETRIED = {
    "reset": Fault(reset_after=CUT),
    "reset at once": Fault(reset_after=0),
    "closed": Fault(end_after=CUT),
    "stalled": Fault(stall_after=CUT),
    "no answer": Fault(is_mute=True),
    "server error": Fault(answer=answer(500, "<Error><Code>InternalError</Code></Error>")),
    "slow down": Fault(answer=answer(503, "<Error><Code>SlowDown</Code></Error>", retry_after="1")),
    "too many": Fault(answer=answer(429)),
    "no HTTP": Fault(answer=b"SSH-2.0-OpenSSH\r\n\r\n", closes_after=True),
    "endless head": Fault(answer=b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000),
    "half a head": Fault(answer=b"HTTP/1.1 200 OK\r\ncontent-le", closes_after=True),
    "no length": Fault(answer=b"HTTP/1.1 200 OK\r\n\r\nabc", closes_after=True),
    "wrong place": Fault(answer=b"HTTP/1.1 206 OK\r\ncontent-length: 1\r\ncontent-range: bytes 5-5/9\r\n\r\nx"),
}


@pytest.mark.parametrize("fault", RETRIED.values(), ids=RETRIED.keys())
def test_a_download_survives(make_engine: MakeEngine, proxy: Proxy, data: bytes, fault: Fault) -> None:
    proxy.faults.append(fault)
    assert fetch(make_engine(), data) == 2
    assert len(proxy.seen) == 2


@pytest.mark.parametrize("fault", [Fault(end_after=CUT), Fault(stall_after=CUT)], ids=["closed", "stalled"])
def test_a_broken_download_is_continued_from_the_last_byte(
    make_engine: MakeEngine, proxy: Proxy, data: bytes, fault: Fault
) -> None:
    proxy.faults.append(fault)
    fetch(make_engine(), data)
    assert [seen.range for seen in proxy.seen] == ["", f"bytes={CUT}-{SIZE - 1}"]
    assert sum(seen.passed for seen in proxy.seen) == SIZE


def test_a_download_that_breaks_often_goes_on_as_long_as_bytes_come(
    make_engine: MakeEngine, proxy: Proxy, data: bytes
) -> None:
    proxy.default = Fault(end_after=256 << 10)
    assert fetch(make_engine(retry_seconds=0.5), data) == -(-SIZE // (256 << 10))
    assert sum(seen.passed for seen in proxy.seen) == SIZE


def test_parts_are_continued_each_on_its_own(make_engine: MakeEngine, proxy: Proxy, data: bytes) -> None:
    proxy.faults.extend([Fault(end_after=MIB)] * 2)
    assert fetch(make_engine(connections=64), data) == 3
    assert {seen.range for seen in proxy.seen} == {
        f"bytes={start}-{end - 1}" for start, end in ((0, 4 * MIB), (MIB, 4 * MIB), (4 * MIB, SIZE), (5 * MIB, SIZE))
    }
    assert sum(seen.passed for seen in proxy.seen) == SIZE


def test_a_server_without_ranges_is_understood(make_engine: MakeEngine, proxy: Proxy, data: bytes) -> None:
    proxy.faults.append(Fault(end_after=CUT))
    proxy.default = Fault(ignores_range=True)
    assert fetch(make_engine(), data) == 2
    assert fetch(make_engine(connections=64), data) == 1


def test_a_length_that_is_too_large_is_found_out(make_engine: MakeEngine, proxy: Proxy, data: bytes) -> None:
    proxy.faults.extend([Fault(more_length=1000)] * 2)
    assert fetch(make_engine(), data) == 3
    proxy.faults.extend([Fault(more_length=1000)] * 2)
    assert fetch(make_engine(connections=64), data) == 1


def test_a_length_that_is_too_small_is_not_taken_for_the_object(
    make_engine: MakeEngine, proxy: Proxy, data: bytes
) -> None:
    proxy.faults.extend([Fault(more_length=-1000)] * 2)
    assert fetch(make_engine(connections=64), data) == 3
    assert sum(seen.passed for seen in proxy.seen) == SIZE


def test_a_slow_link_is_not_cut(make_engine: MakeEngine, proxy: Proxy, data: bytes) -> None:
    proxy.default = Fault(piece_seconds=0.05)
    assert fetch(make_engine(retry_seconds=6.0), data) == 1  # three silent seconds would be too long; it takes five


@pytest.mark.parametrize(
    "fault",
    [fault for name, fault in RETRIED.items() if name not in ("no length", "wrong place")],
    ids=[name for name in RETRIED if name not in ("no length", "wrong place")],
)
def test_an_upload_survives(
    make_engine: MakeEngine, s3_storage: StorageConfig, proxy: Proxy, data: bytes, fault: Fault
) -> None:
    proxy.faults.append(fault)
    engine = make_engine()
    key = f"uploads/{uuid.uuid4().hex}"
    report = start_upload(engine, key, data).result(SECONDS)
    assert report.attempts == 2
    assert [seen.method for seen in proxy.seen] == ["PUT", "PUT"]
    store = open_store(s3_storage)
    assert store.read(key) == data
    store.close()


@pytest.mark.parametrize("is_early", [False, True], ids=["after the body", "before the body"])
@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (403, "AccessDenied", StorageAccessDeniedError),
        (400, "ExpiredToken", StorageAccessDeniedError),
        (404, "NoSuchBucket", BucketNotFoundError),
    ],
)
def test_a_refusal_is_told_at_once(
    make_engine: MakeEngine,
    proxy: Proxy,
    data: bytes,
    status: int,
    code: str,
    error: type[GpusnapError],
    is_early: bool,
) -> None:
    refusal = answer(status, f"<Error><Code>{code}</Code><Message>so &amp; so</Message></Error>", connection="close")
    proxy.default = Fault(answer=refusal, is_early=is_early)
    engine = make_engine()
    with pytest.raises(error, match=f"object .*x: {code}: so & so"):
        start_upload(engine, "x", b"x" if is_early else data).result(SECONDS)
    with pytest.raises(error, match=f"object .*x: {code}: so & so"):
        engine.download("x", 5).result(SECONDS)
    assert len(proxy.seen) == 2


@pytest.mark.parametrize(("status", "code"), [(301, "PermanentRedirect"), (307, "TemporaryRedirect")])
def test_a_bucket_in_another_region_is_explained(make_engine: MakeEngine, proxy: Proxy, status: int, code: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>elsewhere</Message></Error>"
    proxy.default = Fault(answer=answer(status, body, x_amz_bucket_region="eu-west-9", location="http://127.0.0.1:1/"))
    with pytest.raises(BucketNotFoundError, match="region is eu-west-9") as caught:
        make_engine().download("object", SIZE).result(SECONDS)
    assert "[storage] region" in caught.value.hint


def test_a_missing_object_without_a_text_is_named(make_engine: MakeEngine, proxy: Proxy) -> None:
    proxy.default = Fault(answer=answer(404))
    with pytest.raises(ObjectNotFoundError, match="no-such"):
        make_engine(connections=64).download("no-such", SIZE).result(SECONDS)


GONE = {
    "only errors": Fault(answer=answer(503, retry_after="60")),
    "only resets": Fault(reset_after=1000),
    "silence": Fault(is_mute=True),
    "hardly a byte": Fault(end_after=1),
}


@pytest.mark.parametrize("fault", GONE.values(), ids=GONE.keys())
def test_a_store_that_never_recovers_is_unavailable(make_engine: MakeEngine, proxy: Proxy, fault: Fault) -> None:
    proxy.default = fault
    engine = make_engine(connections=4, retry_seconds=2.0)
    futures: list[Future[object]] = [engine.download("object", SIZE), start_upload(engine, "x", bytes(MIB))]  # type: ignore[list-item]
    for future in futures:
        with pytest.raises(StorageUnavailableError, match=re.escape(proxy.endpoint)):
            future.result(SECONDS)


def test_a_store_that_is_gone_is_unavailable(make_engine: MakeEngine, proxy: Proxy, data: bytes) -> None:
    engine = make_engine(connections=2, retry_seconds=4.0)
    fetch(engine, data)
    proxy.close()
    for _ in range(2):
        with pytest.raises(StorageUnavailableError, match="refused"):
            engine.download("object", SIZE).result(SECONDS)


def test_a_server_killed_in_the_middle_comes_back(
    make_engine: MakeEngine, proxy: Proxy, seaweed: SeaweedServer, data: bytes
) -> None:
    proxy.faults.append(Fault(piece_seconds=0.01))
    engine = make_engine(retry_seconds=60.0)
    future = engine.download("object", SIZE)
    wait_until(lambda: proxy.seen and proxy.seen[0].passed > MIB, "the download is under way")
    seaweed.kill()
    seaweed.start()
    incoming = future.result(SECONDS)
    assert incoming.view == data
    incoming.release()


@pytest.mark.parametrize("fault", [Fault(stall_after=CUT), Fault(is_mute=True)], ids=["in a body", "before an answer"])
def test_abort_ends_what_is_blocked(make_engine: MakeEngine, proxy: Proxy, data: bytes, fault: Fault) -> None:
    proxy.default = fault
    engine = make_engine(connections=8, retry_seconds=3600.0)
    futures: list[Future[object]] = [engine.download("object", SIZE), start_upload(engine, "x", data)]  # type: ignore[list-item]
    wait_until(lambda: len(proxy.seen) == 2, "both are under way")
    if fault.stall_after >= 0:
        wait_until(lambda: all(seen.passed == CUT for seen in proxy.seen), "both have stalled")
    engine.abort()
    for future in futures:
        assert isinstance(future.exception(0.0), CancelledError)
    wait_until(lambda: proxy.open_connections == 0, "all connections are closed")


def test_abort_ends_a_connection_that_is_not_accepted(s3_storage: StorageConfig) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]  # the queue holds one: the others never come through
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        storage = msgspec.structs.replace(s3_storage, endpoint=f"http://127.0.0.1:{port}")
        engine = open_engine(storage, TransferConfig(engine=EngineChoice.STREAM, retry_seconds=3600.0), "")
        future = engine.download("object", SIZE)
        engine.abort()
        assert isinstance(future.exception(0.0), CancelledError)
        for filler in fillers:
            filler.close()


def test_connections_are_bounded_and_used_again(make_engine: MakeEngine, proxy: Proxy, data: bytes) -> None:
    engine = make_engine(connections=3)
    for future in [engine.download("object", SIZE) for _ in range(8)]:
        future.result(SECONDS).release()
    assert proxy.most_connections == 3
    assert proxy.connections == 3
    assert len(proxy.seen) == 8


def test_a_kept_connection_that_the_server_closed_costs_no_attempt(
    make_engine: MakeEngine, proxy: Proxy, data: bytes
) -> None:
    proxy.default = Fault(closes_after=True)
    engine = make_engine()
    for number in range(4):
        assert fetch(engine, data) == 1
        assert start_upload(engine, f"kept/{number}", b"x" * MIB).result(SECONDS).attempts == 1
    assert proxy.connections == 8


def test_http_bodies_are_signed(make_engine: MakeEngine, proxy: Proxy) -> None:
    start_upload(make_engine(), "x", b"12345").result(SECONDS)
    signed = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
    assert proxy.seen[0].headers["x-amz-content-sha256"] == signed


def test_https_is_verified_and_resumed(
    seaweed: SeaweedServer,
    s3_storage: StorageConfig,
    data: bytes,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    proxy = Proxy(seaweed.address, context)
    transfer = TransferConfig(engine=EngineChoice.STREAM, connections=64, retry_seconds=1.0)
    engine = open_engine(through(proxy, s3_storage), transfer, "")
    with pytest.raises(StorageUnavailableError, match="certificate"):
        engine.download("object", SIZE).result(SECONDS)
    engine.abort()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[1]))
    patient = msgspec.structs.replace(transfer, retry_seconds=4.0)
    engine = open_engine(through(proxy, s3_storage), patient, "")
    for fault in (Fault(end_after=MIB), Fault(stall_after=MIB)):
        proxy.faults.append(fault)
        assert fetch(engine, data) == 2
    start_upload(engine, "small", data[:300_000]).result(SECONDS)
    proxy.faults.append(Fault(piece_seconds=0.2))  # slow, but it does not stand still
    assert fetch(engine, data[:300_000], "small") == 1
    start_upload(engine, "tls", data).result(SECONDS)
    assert proxy.seen[-1].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    proxy.default = Fault(stall_after=MIB)
    future = engine.download("object", SIZE)
    wait_until(lambda: proxy.seen[-1].passed == MIB, "the download has stalled")
    engine.abort()
    assert isinstance(future.exception(0.0), CancelledError)
    proxy.close()


@pytest.mark.parametrize("which", ["access key", "secret"])
def test_wrong_keys_are_denied_and_not_shown(make_engine: MakeEngine, s3_storage: StorageConfig, which: str) -> None:
    right = s3_storage.credentials
    assert right is not None
    wrong = Credentials("another-key" if which == "access key" else right.access_key_id, "not-the-secret-at-all")
    engine = make_engine(storage=msgspec.structs.replace(s3_storage, credentials=wrong))
    for future in (engine.download("x", 5), start_upload(engine, "x", b"12345")):
        with pytest.raises(StorageAccessDeniedError, match=s3_storage.bucket) as caught:
            future.result(SECONDS)
        assert wrong.secret_access_key not in caught.value.message


def test_keys_may_come_from_the_environment(
    make_engine: MakeEngine, s3_storage: StorageConfig, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3_storage.credentials
    assert keys is not None
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = msgspec.structs.replace(s3_storage, credentials=None)
    with pytest.raises(StorageAccessDeniedError, match="no credentials"):
        make_engine(storage=storage).download("object", SIZE).result(SECONDS)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_access_key)
    assert fetch(make_engine(storage=storage), data) == 1
