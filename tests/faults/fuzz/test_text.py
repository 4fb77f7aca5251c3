"""Text from other programs: the lines of s5cmd, the heads and bodies of HTTP answers, and listings."""

from __future__ import annotations

import contextlib
import json
import random
import tracemalloc

import pytest
from hypothesis import strategies as st

from agent.errors import GpusnapError
from agent.storage.failure import to_error
from agent.storage.http_head import BrokenAnswerError, Head, join_chunks, parse_head
from agent.storage.s3_listing import parse_page
from agent.storage.s5cmd_lines import TEXT_LIMIT, Answer, Remark, parse_line
from agent.storage.stream_requests import refusal
from tests.support.fuzz import fuzz
from tests.support.mutate import mutated

TOKEN = "gpusnap-0123456789abcdef"

NUMBERS = st.one_of(
    st.integers().map(str),
    st.integers(0, 2**70).map(lambda number: f"{number:x}"),
    st.sampled_from(["9" * 5000, "0" * 5000 + "1", "-0", "0x10", "1_0", "1e3", "inf", "nan", "\xb2", " 1", "1 ", ""]),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(TOKEN),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("operation", "success", "source", "destination", "command", "error", "object", "job")
S5CMD_LINES = st.one_of(
    st.binary(max_size=300),
    JSON.map(json.dumps).map(str.encode),
    st.dictionaries(st.sampled_from(FIELDS), JSON | st.text(), max_size=8).map(json.dumps).map(str.encode),
    st.builds(
        lambda start, depth: start * depth, st.sampled_from([b"[", b'{"a":', b'{"error":[']), st.integers(1, 9000)
    ),
    st.builds(
        lambda line, place, bit: bytes(
            byte ^ (bit if number == place else 0) for number, byte in enumerate(line.encode())
        ),
        st.builds(
            lambda text: json.dumps({"operation": "cp", "command": f"cp s3://b/k /run/{TOKEN}", "error": text}),
            st.sampled_from(["NoSuchKey: no status code: 404", "SlowDown: no status code: 503", "write /x: full"]),
        ),
        st.integers(0, 130),
        st.integers(1, 255),
    ),
)


@fuzz(2000, line=S5CMD_LINES)
def test_lines_of_s5cmd(line: bytes) -> None:
    answer = parse_line(line)
    if isinstance(answer, Remark):
        assert len(answer.text) <= TEXT_LIMIT
    else:
        assert isinstance(answer, Answer)
        if answer.failure is not None:
            assert len(answer.failure.text) <= TEXT_LIMIT
            assert isinstance(to_error(answer.failure, "s3://b", "k"), GpusnapError)


HEADERS = st.one_of(
    st.builds(
        lambda name, value: f"{name}: {value}",
        st.sampled_from(["Content-Length", "Transfer-Encoding", "Connection", "Retry-After", "x-amz-bucket-region"]),
        st.one_of(NUMBERS, st.sampled_from(["chunked", "Chunked", "close", "keep-alive"]), st.text(max_size=20)),
    ),
    st.builds(lambda first, last, whole: f"Content-Range: bytes {first}-{last}/{whole}", NUMBERS, NUMBERS, NUMBERS),
    st.text(max_size=40),
)
HEADS = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda start, headers: "\r\n".join([start, *headers]).encode("latin-1", "replace"),
        st.sampled_from(["HTTP/1.1 200 OK", "HTTP/1.0 206", "HTTP/1.1 503 Slow Down", "HTTP/1.1 099 ", "HTTP/2 200"]),
        st.lists(HEADERS, max_size=6),
    ),
)


@fuzz(2000, data=HEADS, body=st.text(max_size=200) | st.text("<>Code/Message&;", max_size=60))
def test_heads_of_answers(data: bytes, body: str) -> None:
    try:
        head = parse_head(data)
        assert isinstance(head, Head)
        assert head.length is None or head.length >= 0
        with contextlib.suppress(BrokenAnswerError):
            begin, end, size = head.part
            assert 0 <= begin <= end <= size
    except BrokenAnswerError as error:
        assert len(str(error)) < 200
        return
    refused = refusal(head, body)
    assert refused.wish >= 0.0
    assert isinstance(to_error(refused.failure, "s3://b", "k"), GpusnapError)


SIZED = st.builds(lambda size, data: f"{size}\r\n".encode("latin-1") + data, NUMBERS, st.binary(max_size=20))
CODED = st.builds(lambda data: b"%x\r\n%b\r\n" % (len(data), data), st.binary(max_size=20))


@fuzz(2000, pieces=st.lists(SIZED | CODED | st.binary(max_size=6), max_size=6))
def test_bodies_in_chunks(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    try:
        body, _ = join_chunks(data)
    except BrokenAnswerError:
        return
    assert len(body) <= len(data)


PAGE = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
    b"<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t&amp;</NextContinuationToken>"
    b"<Contents><Key>a%2Fb</Key><LastModified>2026-11-23T11:05:12.000Z</LastModified><Size>5</Size></Contents>"
    b"<CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes></ListBucketResult>"
)
WORDS = st.sampled_from(
    [b"5", b"-5", b"+5", b"1_0", b" 5", "\u0665".encode(), b"9" * 5000, b"&#x0;", b"<a/>", b"&lol;", b""]
)
PAGES = st.one_of(
    st.builds(lambda seed: mutated(PAGE, random.Random(seed)), st.integers(0, 2**64 - 1)),
    st.builds(lambda word: PAGE.replace(b"<Size>5<", b"<Size>" + word + b"<"), WORDS),
    st.builds(lambda word: PAGE.replace(b"12.000Z", word), WORDS),
    st.builds(
        lambda encoding: PAGE.decode().replace("UTF-8", encoding).encode(encoding), st.sampled_from(["utf-16", "utf-8"])
    ),
    st.binary(max_size=60),
    st.builds(lambda depth: b"<a>" * depth, st.integers(1, 20_000)),
)


@fuzz(2000, body=PAGES)
def test_pages_of_listings(body: bytes) -> None:
    try:
        page = parse_page(body)
    except BrokenAnswerError as error:
        assert len(str(error)) < 500
        return
    assert b"ListBucketResult" in body
    assert all(found.size >= 0 for found in page.objects)


def laughs(encoding: str) -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    document = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY e0 "ha">{entities}]>'
    return (document + "<ListBucketResult><IsTruncated>&e9;</IsTruncated></ListBucketResult>").encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_listing_that_would_grow_to_gigabytes(encoding: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BrokenAnswerError):
            parse_page(laughs(encoding))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
