"""Where stored content lies in files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.repository.extents import content_spans
from agent.repository.model import Extent
from tests.support.forging import file

Gaps = list[tuple[int, int]]


def spans_of(gaps: Gaps) -> list[tuple[int, int]]:
    """Returns spans for (gap before, length) pairs."""
    spans, end = [], 0
    for gap, length in gaps:
        spans.append((end + gap, length))
        end += gap + length
    return spans


def positions(spans: list[tuple[int, int]]) -> list[int]:
    return [position for offset, length in spans for position in range(offset, offset + length)]


@given(gaps=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=6), data=st.data())
def test_a_part_of_the_content_lies_where_all_of_it_does(gaps: Gaps, data: st.DataObject) -> None:
    spans = spans_of(gaps)
    content = sum(length for _, length in spans)
    size = spans[-1][0] + spans[-1][1] if spans else 0
    entry = file(b"f", 0, size, sparse=True, extents=tuple(Extent(*span) for span in spans), data_size=content)
    start = data.draw(st.integers(0, content))
    length = data.draw(st.integers(0, content - start))
    assert positions(list(content_spans(entry, start, length))) == positions(spans)[start : start + length]
