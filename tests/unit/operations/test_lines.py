"""Splitting a stream into lines."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.operations.lines import LineSplitter

LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=20)


@given(lines=LINES, cuts=st.lists(st.integers(0, 300)), limit=st.integers(1, 12))
def test_lines_come_out_whole_however_the_stream_is_cut(lines: list[bytes], cuts: list[int], limit: int) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter(limit)
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    found = [line for begin, end in itertools.pairwise(places) for line in splitter.feed(stream[begin:end])]
    assert found == [line for line in lines if 0 < len(line) <= limit]
    assert splitter.dropped == sum(len(line) > limit for line in lines)


def test_an_endless_line_is_not_kept() -> None:
    splitter = LineSplitter(10)
    for _ in range(1000):
        assert splitter.feed(b"x" * 100) == []
    assert splitter.feed(b"\nshort\n") == [b"short"]
    assert splitter.dropped == 1
