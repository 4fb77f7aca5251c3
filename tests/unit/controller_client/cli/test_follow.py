"""The line that says what an operation did."""

from __future__ import annotations

import pytest

from controller_client.cli.follow import summary
from controller_client.model import OperationResult


@pytest.mark.parametrize(
    ("chunks", "transferred", "said"),
    [
        (5, 0, "none of 5 chunks had to be transferred"),
        (5, 3, "3 of 5 chunks transferred, 1.0 KiB"),
        (5, 6, "6 chunks transferred, 1.0 KiB"),
    ],
    ids=["none", "some", "more than the snapshot has"],
)
def test_chunks_transferred(chunks: int, transferred: int, said: str) -> None:
    result = OperationResult("s", chunks=chunks, chunks_transferred=transferred, transferred_bytes=1024)
    assert said in summary(result).split("; ")
