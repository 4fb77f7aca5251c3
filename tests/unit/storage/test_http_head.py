"""The text of HTTP answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.storage.http_head import BrokenAnswerError, Head, join_chunks, parse_head


def test_an_answer_is_understood() -> None:
    head = parse_head(b"HTTP/1.1 206 Partial\r\nContent-Length: 10\r\nContent-Range:bytes 5-14/99\r\nETag: \xe9")
    assert (head.status, head.reason, head.length, head.part) == (206, "Partial", 10, (5, 15, 99))
    assert head.headers["etag"] == "é"
    assert head.is_keep_alive
    assert not head.is_chunked


@pytest.mark.parametrize(
    ("data", "is_keep_alive"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.1 200", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close", False),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive", True),
    ],
)
def test_connections_are_kept_as_the_server_says(data: bytes, is_keep_alive: bool) -> None:
    assert parse_head(data).is_keep_alive is is_keep_alive


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (b"HTTP/1.1 204 No Content", 0),
        (b"HTTP/1.1 200 OK", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: Chunked", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0", 0),
    ],
)
def test_lengths(data: bytes, length: int | None) -> None:
    assert parse_head(data).length == length


@pytest.mark.parametrize("text", ["-1", "+1", "1 2", "", "1_0", "\xb2", "9" * 5000])
def test_a_length_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(BrokenAnswerError, match="Content-Length"):
        _ = parse_head(f"HTTP/1.1 200 OK\r\ncontent-length: {text}".encode("latin-1")).length


@pytest.mark.parametrize(
    "text",
    [
        *("", "bytes */99", "bytes 5-14/*", "5-14/99", "bytes 0-0/" + "9" * 5000),
        *("bytes 5-4/99", "bytes 5-99/99", "bytes 99-99/99"),
    ],
)
def test_a_range_that_no_body_can_be_is_refused(text: str) -> None:
    with pytest.raises(BrokenAnswerError, match="Content-Range"):
        _ = parse_head(f"HTTP/1.1 206 OK\r\ncontent-range: {text}".encode()).part


def test_a_whole_object_is_a_part_if_its_size_is_known() -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: 7").part == (0, 7, 7)
    with pytest.raises(BrokenAnswerError, match="how large"):
        _ = parse_head(b"HTTP/1.1 200 OK").part


@given(st.binary(max_size=200) | st.builds(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail, st.binary(max_size=200)))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    try:
        head = parse_head(data)
        assert isinstance(head, Head)
        assert head.length is None or head.length >= 0
    except BrokenAnswerError:
        pass


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=10), st.data())
def test_chunks_are_joined_however_far_they_have_come(chunks: list[bytes], data: st.DataObject) -> None:
    coded = b"".join(b"%x;name=value\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert join_chunks(coded) == (b"".join(chunks), True)
    body, complete = join_chunks(coded[: data.draw(st.integers(0, len(coded) - 1))])
    assert not complete
    assert b"".join(chunks).startswith(body)


@pytest.mark.parametrize("data", [b"hello\r\n", b"-6\r\n", b"+1\r\nx\r\n", b"0x1\r\nx\r\n", b"1_0\r\n", b"\r\n"])
def test_a_chunk_without_a_size_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenAnswerError, match="size"):
        join_chunks(data)
