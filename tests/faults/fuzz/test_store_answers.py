"""Answers of an S3 store that say anything: our own errors come out, and never an empty list for a broken one."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from agent.config.model import Credentials, Provider, StorageConfig
from agent.errors import GpusnapError
from agent.storage.check import check_steps
from agent.storage.open import open_store
from agent.storage.store import Store
from tests.support.fuzz import fuzz
from tests.support.mutate import mutated
from tests.support.proxy import Fault, Proxy

BODIES = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket'
    b"</Name><Prefix></Prefix><IsTruncated>false</IsTruncated><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><Contents><Key>"
    b"a/b</Key><LastModified>2026-11-23T11:05:12.000Z</LastModified><ETag>&quot;9b&quot;</ETag><Size>5</Size></Contents>"
    b"<CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes></ListBucketResult>",
    b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>",
    b"<Error><Code>SlowDown</Code></Error>",
    b"content of an object",
    b"",
)
STATUSES = (
    "200 OK",
    "206 Partial Content",
    "204 No Content",
    "301 Moved",
    "403 No",
    "404 No",
    "416 No",
    "500 No",
    "503",
)
HEADERS = (
    b"ETag: \"9b\"\r\n",
    b"Last-Modified: Mon, 23 Nov 2026 11:05:12 GMT\r\n",
    b"Content-Range: bytes 0-19/20\r\n",
    b"x-amz-bucket-region: eu-west-1\r\n",
    b"Location: http://127.0.0.1:1/\r\n",
    b"x-amz-checksum-crc32: AAAA\r\n",
)  # fmt: skip
ASKED = {
    "list": lambda store: list(store.list("")),
    "list_folders": lambda store: list(store.list_folders("")),
    "head": lambda store: store.head("key"),
    "read": lambda store: store.read("key"),
    "range": lambda store: store.read("key", 3, 5),
    "tail": lambda store: store.read_tail("key", 7),
    "write": lambda store: store.write("key", b"x"),
    "delete": lambda store: store.delete("key"),
    "check": lambda store: store.check(),
    "steps": check_steps,
}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    made = Proxy(("127.0.0.1", 1))
    yield made
    made.close()


@pytest.fixture(scope="module")
def store(proxy: Proxy) -> Iterator[Store]:
    storage = StorageConfig(Provider.CUSTOM, "bucket", "", proxy.endpoint, credentials=Credentials("id", "secret"))
    made = open_store(storage, retry_seconds=0.0)
    yield made
    made.close()


def drawn_answer(chance: random.Random) -> bytes:
    """Returns an HTTP answer with something wrong, most often in its body."""
    body = chance.choice(BODIES)
    if chance.random() < 0.8:
        body = mutated(body, chance) if chance.random() < 0.7 else body[: chance.randrange(len(body) + 1)]
    length = len(body) + chance.choice((0, 0, 0, 0, 1, 99999, -1))
    status = chance.choice(STATUSES[: chance.choice((1, 2, 9))])
    head = f"HTTP/1.1 {status}\r\ncontent-length: {max(length, 0)}\r\n".encode()
    head += b"".join(chance.sample(HEADERS, chance.randrange(4)))
    if chance.random() < 0.1:
        head = mutated(head, chance)
    return head + b"\r\n" + body


@fuzz(250, each=3, seed=st.integers(0, 2**64 - 1), asked=st.sampled_from(sorted(ASKED)))
def test_any_answers(proxy: Proxy, store: Store, seed: int, asked: str) -> None:
    chance = random.Random(seed)
    proxy.faults.clear()
    proxy.faults.extend(Fault(answer=drawn_answer(chance), closes_after=True) for _ in range(3))
    proxy.default = Fault(answer=b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", closes_after=True)
    is_list = b"</ListBucketResult>" in proxy.faults[0].answer
    try:
        found = ASKED[asked](store)
    except GpusnapError as error:
        assert error.reason != GpusnapError.reason
        assert "\n" not in error.message
        return
    if asked.startswith("list") and found == []:
        assert is_list
