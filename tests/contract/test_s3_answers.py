"""Answers of an S3 store that are wrong or break off: an error that may be tried again, and never an empty list."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.config.model import Credentials, EngineChoice, Provider, StorageConfig, TransferConfig
from agent.errors import BucketNotFoundError, DataLossError, ObjectNotFoundError, StorageUnavailableError
from agent.events import Direction
from agent.repository import keys
from agent.repository.repository import Repository
from agent.storage.open import open_store, running_engine
from agent.storage.store import Deadline, ObjectInfo, Store
from tests.support.proxy import Fault, Proxy, Seen, answer
from tests.support.seaweed import SeaweedServer

LIST = """<?xml version="1.0"?><ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>
<Contents><Key>a</Key><Size>5</Size><LastModified>2026-11-23T11:05:12Z</LastModified></Contents></ListBucketResult>"""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Answers all by itself: there is no server behind it."""
    made = Proxy(("127.0.0.1", 1))
    yield made
    made.close()


@pytest.fixture
def store(proxy: Proxy) -> Iterator[Store]:
    storage = StorageConfig(
        provider=Provider.CUSTOM, bucket="bucket", endpoint=proxy.endpoint, credentials=Credentials("id", "secret")
    )
    made = open_store(storage, retry_seconds=0.5)
    yield made
    made.close()


def promised(body: str, size: int = 5000) -> bytes:
    """Returns an answer that ends before the length that it says."""
    return f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n{body}".encode()


NO_LISTS = {
    "cut before its body": promised(""),
    "cut in its body": promised(LIST[:100]),
    "cut chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    "nothing": answer(200),
    "a page for people": answer(200, "<html><body>Welcome to the hotel's network</body></html>"),
    "another answer": answer(200, "<CopyObjectResult><ETag>x</ETag></CopyObjectResult>"),
    "no XML": answer(200, "{}"),
    "without the end": answer(200, LIST[:-30]),
    "no size": answer(200, LIST.replace("<Size>5</Size>", "")),
    "odd size": answer(200, LIST.replace(">5<", ">five<")),
    "odd time": answer(200, LIST.replace("-11-", "-99-")),
    "more without a token": answer(200, LIST.replace("false", "true")),
}


def test_a_list_is_understood(proxy: Proxy, store: Store) -> None:
    proxy.default = Fault(answer=answer(200, LIST))
    assert list(store.list("")) == [ObjectInfo("a", 5, 1795431912000000000)]


@pytest.mark.parametrize("case", NO_LISTS)
def test_what_is_no_list_is_no_empty_one(proxy: Proxy, store: Store, case: str) -> None:
    proxy.default = Fault(answer=NO_LISTS[case], closes_after=True)
    for ask in (store.list, store.list_folders):
        with pytest.raises(StorageUnavailableError):
            list(ask(""))


WRONG_PARTS = {
    "less than it says": ("bytes 0-9/10", "012345"),
    "more than it says": ("bytes 0-4/10", "0123456789"),
    "from too far on": ("bytes 4-9/10", "456789"),
    "too soon at its end": ("bytes 0-2/10", "012"),
    "beyond the object": ("bytes 0-9/5", "0123456789"),
}


@pytest.mark.parametrize("case", WRONG_PARTS)
def test_a_part_that_was_not_asked_for_is_not_taken(proxy: Proxy, store: Store, case: str) -> None:
    said, body = WRONG_PARTS[case]
    proxy.default = Fault(answer=answer(206, body, content_range=said))
    for read in (lambda: store.read("key", 2, 6), lambda: store.read_tail("key", 8)):
        with pytest.raises(StorageUnavailableError):
            read()


def test_parts_are_cut_to_what_was_asked_for(proxy: Proxy, store: Store) -> None:
    proxy.default = Fault(answer=answer(206, "123456789", content_range="bytes 1-9/10"))
    assert store.read("key", 2, 6) == b"234567"
    assert store.read_tail("key", 4) == (b"6789", 10)


def test_a_store_that_sends_elsewhere_is_not_followed(proxy: Proxy, store: Store) -> None:
    proxy.default = Fault(answer=answer(301, Location="http://127.0.0.1:1/", x_amz_bucket_region="eu-west-1"))
    for ask in (store.check, lambda: list(store.list(""))):
        with pytest.raises(BucketNotFoundError, match="the bucket's region is eu-west-1"):
            ask()


READS: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read("key"),
    "range": lambda store: store.read("key", 1, 2),
    "tail": lambda store: store.read_tail("key", 5),
}


@pytest.mark.parametrize("reading", READS)
def test_bodies_that_break_off_are_no_objects(proxy: Proxy, store: Store, reading: str) -> None:
    for body in ("", "abc"):
        proxy.default = Fault(answer=promised(body), closes_after=True)
        with pytest.raises(StorageUnavailableError):
            READS[reading](store)


def test_a_head_without_facts(proxy: Proxy, store: Store) -> None:
    proxy.default = Fault(answer=answer(200))
    with pytest.raises(StorageUnavailableError, match="Last-Modified"):
        store.head("key")


@pytest.fixture
def real(seaweed: SeaweedServer, bucket: str) -> Iterator[tuple[Proxy, Store]]:
    """A real store behind a proxy."""
    proxy = Proxy(seaweed.address)
    config = seaweed.storage_config(bucket)
    store = open_store(StorageConfig(Provider.CUSTOM, bucket, "", proxy.endpoint, credentials=config.credentials), 5.0)
    yield proxy, store
    store.close()
    proxy.close()


def test_a_download_that_breaks_behind_its_last_byte(real: tuple[Proxy, Store], tmp_path: Path) -> None:
    proxy, store = real
    store.write("key", b"content")
    for more in (1, -3):
        path = tmp_path / str(more)
        proxy.faults.append(Fault(more_length=more))
        store.download("key", str(path))
        # What was cut unseen is found by whoever knows the hash.
        assert path.read_bytes() == b"content"[: 7 + min(more, 0)]
    with pytest.raises(ObjectNotFoundError):
        store.download("other", str(tmp_path / "other"))


def test_damage_on_the_way_is_read_again(real: tuple[Proxy, Store]) -> None:
    proxy, store = real
    repository = Repository(store)
    made = repository.ensure()
    proxy.faults.append(Fault(flip_at=0))
    assert repository.info() == made
    store.write(keys.REPOSITORY, b"[]")
    with pytest.raises(DataLossError):
        repository.info()


CONTENT = bytes(range(256)) * 400


def with_engine(engine: EngineChoice) -> Callable[[Proxy, Store, StorageConfig, Path], None]:
    def upload(proxy: Proxy, store: Store, storage: StorageConfig, folder: Path) -> None:
        transfer = TransferConfig(engine=engine, connections=1, retry_seconds=5.0)
        with running_engine(storage, transfer, str(folder), Direction.UPLOAD) as running:
            outgoing = running.outgoing(len(CONTENT))
            outgoing.write(CONTENT)
            assert running.upload(outgoing, "key").result(30.0).attempts == 2

    return upload


def upload_file(proxy: Proxy, store: Store, storage: StorageConfig, folder: Path) -> None:
    (folder / "file").write_bytes(CONTENT)
    store.upload("key", str(folder / "file"))


def upload_in_time(proxy: Proxy, store: Store, storage: StorageConfig, folder: Path) -> None:
    (folder / "file").write_bytes(CONTENT)
    store.upload_before("key", str(folder / "file"), Deadline(int(time.time()), 60))


UPLOADS: dict[str, Callable[[Proxy, Store, StorageConfig, Path], None]] = {
    "write": lambda proxy, store, storage, folder: store.write("key", CONTENT),
    "upload": upload_file,
    "upload before": upload_in_time,
    "s5cmd": with_engine(EngineChoice.S5CMD),
    "stream": with_engine(EngineChoice.STREAM),
}


@pytest.mark.parametrize("how", UPLOADS)
def test_a_bit_that_is_flipped_on_its_way_up_is_noticed(
    real: tuple[Proxy, Store], seaweed: SeaweedServer, bucket: str, tmp_path: Path, how: str
) -> None:
    proxy, store = real
    damaged: list[Seen] = []

    def once(seen: Seen) -> Fault | None:
        is_content = seen.headers.get("content-length") == str(len(CONTENT))
        if damaged or not is_content:
            return None
        damaged.append(seen)
        return Fault(flip_at=999)

    proxy.script = once
    storage = msgspec.structs.replace(seaweed.storage_config(bucket), endpoint=proxy.endpoint)
    UPLOADS[how](proxy, store, storage, tmp_path)
    assert len(damaged) == 1
    assert store.read("key") == CONTENT
