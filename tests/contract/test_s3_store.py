"""The S3 store behind a link that breaks, stalls and lies."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from agent.config.model import StorageConfig
from agent.errors import ObjectNotFoundError, StorageAccessDeniedError, StorageUnavailableError
from agent.storage.open import open_store
from agent.storage.store import Store
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, Seen, answer

DATA = random.Random(1).randbytes(3 << 20)


@pytest.fixture
def store(s3_storage: StorageConfig, proxy: Proxy) -> Iterator[Store]:
    """A store behind the proxy, with one object."""
    opened = open_store(msgspec.structs.replace(s3_storage, endpoint=proxy.endpoint), retry_seconds=4.0)
    opened.write("object", DATA)
    proxy.seen.clear()
    yield opened
    opened.close()


def chunked(body: bytes, size: int) -> bytes:
    """Returns an answer whose body comes in chunks, as AWS sends listings."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x;name=value\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks


BROKEN = [
    Fault(reset_after=1000),
    Fault(end_after=100_000),
    Fault(more_length=5),
    Fault(answer=answer(500)),
    Fault(answer=answer(503, retry_after="1")),
    Fault(answer=b"nonsense\r\n\r\n"),
    Fault(is_mute=True),
    Fault(stall_after=70_000),
]


@pytest.mark.parametrize("fault", BROKEN, ids=repr)
def test_what_breaks_is_asked_again(store: Store, proxy: Proxy, fault: Fault, tmp_path: Path) -> None:
    proxy.faults.append(fault)
    assert store.read("object") == DATA
    proxy.faults.append(fault)
    store.download("object", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == DATA
    proxy.faults.append(fault)
    (tmp_path / "up").write_bytes(DATA[::-1])
    store.upload("object", str(tmp_path / "up"))
    assert store.read("object") == DATA[::-1]
    assert len(proxy.seen) > 4


def test_a_download_goes_on_where_it_broke(store: Store, proxy: Proxy, tmp_path: Path) -> None:
    proxy.faults.extend([Fault(reset_after=1 << 20), Fault(end_after=1 << 20)])
    store.download("object", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == DATA
    begun = [int(seen.range[6:-1]) for seen in proxy.seen[1:]]
    assert 0 < begun[0] < begun[1]


def test_a_download_begins_anew_if_the_store_knows_no_ranges(store: Store, proxy: Proxy, tmp_path: Path) -> None:
    proxy.faults.extend([Fault(reset_after=1 << 20), Fault(ignores_range=True)])
    store.download("object", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == DATA


def test_a_download_begins_anew_if_the_object_was_replaced(
    store: Store, proxy: Proxy, s3_storage: StorageConfig, tmp_path: Path
) -> None:
    direct = open_store(s3_storage, retry_seconds=5.0)
    proxy.faults.append(Fault(reset_after=1 << 20))
    replaced = threading.Event()

    def replace() -> None:
        wait_until(lambda: proxy.seen, "the request of the download")
        direct.write("object", DATA[::-1])
        replaced.set()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(replace)
        store.download("object", str(tmp_path / "down"))
    assert replaced.is_set()
    assert (tmp_path / "down").read_bytes() in (DATA, DATA[::-1])
    direct.close()


def test_ranges_are_right_even_if_the_store_knows_none(store: Store, proxy: Proxy) -> None:
    proxy.default = Fault(ignores_range=True)
    assert store.read("object", 100, 50) == DATA[100:150]
    assert store.read("object", len(DATA) - 5, 50) == DATA[-5:]
    assert store.read_tail("object", 20) == (DATA[-20:], len(DATA))


LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated>%s</ListBucketResult>"
ITEM = b"<Contents><Key>%05d</Key><LastModified>2026-11-23T11:05:12.000Z</LastModified><Size>1</Size></Contents>"


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_answers_may_come_in_chunks(s3_storage: StorageConfig, proxy: Proxy, size: int) -> None:
    items = [ITEM % number for number in range(20 if size == 1 else 1000)]
    bare = msgspec.structs.replace(s3_storage, endpoint=proxy.endpoint, prefix="")
    store = open_store(bare, retry_seconds=4.0)
    proxy.faults.append(Fault(answer=chunked(LISTING % b"".join(items), size)))
    assert [item.key for item in store.list("")] == [f"{number:05}" for number in range(len(items))]
    proxy.faults.append(Fault(answer=chunked(LISTING % b"", size)[:-7]))  # cut in the middle, so asked again
    assert list(store.list("no such prefix")) == []
    store.close()


def test_refusals_are_final(store: Store, proxy: Proxy) -> None:
    denied = "<Error><Code>AccessDenied</Code><Message>not &lt;yours&gt;</Message></Error>"
    proxy.faults.append(Fault(answer=answer(403, denied)))
    with pytest.raises(StorageAccessDeniedError, match=r"object .*object: AccessDenied: not <yours>"):
        store.read("object")
    proxy.faults.append(Fault(answer=answer(404, "<Error><Code>NoSuchKey</Code></Error>")))
    with pytest.raises(ObjectNotFoundError):
        store.read("object")
    assert len(proxy.seen) == 2


def test_a_copy_that_fails_after_its_head_is_no_copy(store: Store, proxy: Proxy) -> None:
    failed = "<Error><Code>InternalError</Code><Message>We failed.</Message></Error>"
    proxy.faults.append(Fault(answer=answer(200, failed)))
    store.copy("object", "copy")
    assert store.head("copy").size == len(DATA)
    assert [seen.method for seen in proxy.seen[:2]] == ["PUT", "PUT"]


def test_a_store_that_never_answers_well_is_given_up(store: Store, proxy: Proxy) -> None:
    proxy.default = Fault(answer=answer(503, "<Error><Code>SlowDown</Code></Error>"))
    with pytest.raises(StorageUnavailableError, match="SlowDown"):
        store.read("object")
    with pytest.raises(StorageUnavailableError, match="503"):
        store.check()


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.read("object"),
        lambda store: list(store.list("")),
        lambda store: store.head("object"),
        lambda store: store.write("other", b"data"),
        lambda store: store.copy("object", "other"),
        lambda store: store.delete("object"),
    ],
    ids=["read", "list", "head", "write", "copy", "delete"],
)
@pytest.mark.parametrize("status", [503, 429])
def test_a_store_that_says_when_is_asked_again_then(
    store: Store, proxy: Proxy, ask: Callable[[Store], object], status: int
) -> None:
    begun: list[float] = []

    def busy(_: Seen) -> Fault | None:
        begun.append(time.monotonic())
        return Fault(answer=answer(status, retry_after="1")) if begun[-1] - begun[0] < 1.0 else None

    proxy.script = busy
    ask(store)
    assert len(proxy.seen) == 2


def test_a_store_that_says_in_an_hour_is_unavailable_now(store: Store, proxy: Proxy) -> None:
    proxy.default = Fault(answer=answer(503, "<Error><Code>SlowDown</Code></Error>", retry_after="3600"))
    with pytest.raises(StorageUnavailableError, match="SlowDown"):
        store.read("object")
    assert len(proxy.seen) == 1


def test_connections_are_kept_and_bounded(store: Store, proxy: Proxy) -> None:
    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(lambda _: store.read("object", 0, 10), range(200))) == {DATA[:10]}
    assert proxy.connections <= 33
    proxy.faults.append(Fault(closes_after=True))
    for _ in range(3):
        assert store.read("object", 0, 10) == DATA[:10]
