"""Pages of listings: what real servers send is understood, and nothing else gets through."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.storage.http_head import BrokenAnswerError
from agent.storage.s3_listing import http_time, parse_page
from agent.storage.store import ObjectInfo

SECOND = 1_000_000_000

AWS = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>a%20b/</Prefix>
<NextContinuationToken>1ueGcx/+==</NextContinuationToken><KeyCount>2</KeyCount><MaxKeys>2</MaxKeys>
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
<Contents><Key>a%20b/c%2Bd+e</Key><LastModified>2026-11-23T11:05:12.500Z</LastModified><ETag>&quot;x&quot;</ETag>
<Size>7</Size><StorageClass>STANDARD</StorageClass><Owner><ID>1</ID></Owner></Contents>
<CommonPrefixes><Prefix>a%20b/f%2F/</Prefix></CommonPrefixes></ListBucketResult>"""

PLAIN = b"""<ListBucketResult><IsTruncated>false</IsTruncated><NextContinuationToken></NextContinuationToken>
<Contents><Key>a%20b &amp; c</Key><LastModified>1970-01-01T00:00:01Z</LastModified><Size>0</Size></Contents>
</ListBucketResult>"""


def test_a_page_of_aws() -> None:
    page = parse_page(AWS)
    assert page.objects == (ObjectInfo("a b/c+d+e", 7, 1795431912 * SECOND + SECOND // 2),)
    assert (page.folders, page.next) == (("a b/f//",), "1ueGcx/+==")


def test_a_page_without_namespace_and_encoding() -> None:
    page = parse_page(PLAIN)
    assert page.objects == (ObjectInfo("a%20b & c", 0, SECOND),)
    assert (page.folders, page.next) == ((), "")


def test_times_of_headers_agree_with_those_of_listings() -> None:
    assert http_time("Mon, 23 Nov 2026 11:05:12 GMT") == 1795431912 * SECOND
    for text in ("", "yesterday", "2026-11-23T11:05:12Z"):
        with pytest.raises(BrokenAnswerError):
            http_time(text)


ENTITIES = b"".join(b'<!ENTITY %c "%s">' % (name + 1, b"&%c;" % name * 10) for name in range(ord("a"), ord("j")))
BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + ENTITIES + b"]>" + PLAIN.replace(b"a%20b", b"&j;")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Error><Code>SlowDown</Code></Error>",
        PLAIN.replace(b"<Size>0", b"<Size>many"),
        PLAIN.replace(b"1970", b"now"),
        PLAIN.replace(b"false", b"true"),
        PLAIN.replace(b"<IsTruncated>false</IsTruncated>", b""),
        AWS[:-10],
        BOMB,
    ],
)
def test_what_is_no_page_is_refused(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BrokenAnswerError):
            parse_page(body)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(AWS) - 1), data=st.binary(max_size=4), cut=st.booleans())
def test_damaged_pages_are_pages_or_refused(place: int, data: bytes, cut: bool) -> None:
    damaged = AWS[:place] + data + (b"" if cut else AWS[place + len(data) :])
    try:
        parse_page(damaged)
    except BrokenAnswerError:
        pass
