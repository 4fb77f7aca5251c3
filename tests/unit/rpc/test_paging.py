"""Page sizes, tokens and what fits."""

from __future__ import annotations

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InvalidRequestError, PageTokenError
from agent.rpc.paging import PAGE_BYTES, fitting, make_token, page_size, read_number, read_text, read_token


@given(scope=st.binary(), place=st.binary(min_size=1))
def test_a_token_brings_its_place_back(scope: bytes, place: bytes) -> None:
    assert read_token(make_token(scope, place), scope) == place


@given(scope=st.binary(), other=st.binary(), place=st.binary())
def test_a_token_of_another_list_is_refused(scope: bytes, other: bytes, place: bytes) -> None:
    if scope != other:
        with pytest.raises(PageTokenError):
            read_token(make_token(scope, place), other)


@given(token=st.text(min_size=1))
def test_whatever_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(PageTokenError):
        read_token(token, b"scope")


@pytest.mark.parametrize("place", [b"x", b"-1", b"1.5", b"9" * 19, b"\xff", b" 1"])
def test_a_forged_place_is_refused(place: bytes) -> None:
    """The digest in a token is no secret: anyone can make one."""
    with pytest.raises(PageTokenError):
        read_number(place)
    with pytest.raises(PageTokenError):
        read_text(b"\xff" + place)
    assert (read_number(b""), read_number(b"12"), read_text(b"12")) == (0, 12, "12")


def test_no_token_begins_at_the_start() -> None:
    assert read_token("", b"scope") == b""


@pytest.mark.parametrize(("requested", "size"), [(0, 100), (1, 1), (1000, 1000), (5000, 1000)])
def test_page_sizes(requested: int, size: int) -> None:
    assert page_size(requested, 100, 1000) == size


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        page_size(-1, 100, 1000)


def test_a_page_stays_below_the_limit_of_a_message() -> None:
    entries = [pb.Entry(path=b"x" * 4000) for _ in range(10_000)]
    fit = fitting(iter(entries))
    assert PAGE_BYTES * 0.99 < pb.ListFilesResponse(entries=fit).ByteSize() <= PAGE_BYTES
    assert len(fitting([pb.Entry(path=b"x" * PAGE_BYTES)] * 2)) == 1
    assert fitting([]) == []
