"""A segment is written into the unfinished files that it belongs into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import CancelledError
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.pipeline.warnings import Warnings
from agent.restore.large_files import unfinished_name
from agent.restore.metadata import Metadata
from agent.restore.plan import LargeFile, SegmentPlace
from agent.restore.request import IfNotEmpty
from agent.restore.segment_writer import SegmentWriter, Take, written_to
from agent.restore.target import Folders
from agent.restore.writer import Writer
from tests.support.forging import file

MODEL = SegmentPlace(file(b"model", 0, 20, segments=1, model=True), 0, 10)
OTHER = SegmentPlace(file(b"other", 0, 20, segments=1), 10, 3)


def test_models_are_counted_for_themselves() -> None:
    written = written_to([MODEL, OTHER])
    assert (written.content_bytes, written.model_bytes) == (13, 10)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """Has begun with the model."""
    fd = os.open(tmp_path, DIRECTORY_FLAGS)
    metadata = Metadata(warnings := Warnings())
    made = Writer(Folders(fd, fd), 0, IfNotEmpty.FAIL, metadata, True, False, warnings)
    made.large.begin(LargeFile(MODEL.entry))
    yield made
    made.close()
    os.close(fd)


def feed(take: Take) -> None:
    take(0, memoryview(b"01234"))
    take(5, memoryview(b"56789"))


def content(folder: Path) -> bytes:
    return (folder / os.fsdecode(unfinished_name(b"model"))).read_bytes()


def test_a_segment_may_be_in_one_file_twice(writer: Writer, tmp_path: Path) -> None:
    SegmentWriter(writer, lambda: None).write([MODEL, msgspec.structs.replace(MODEL, start=10)], feed)
    assert content(tmp_path) == b"01234567890123456789"


def test_it_can_be_broken_off_between_blocks(writer: Writer, tmp_path: Path) -> None:
    checks: list[None] = []

    def check() -> None:
        checks.append(None)
        if len(checks) == 2:
            raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        SegmentWriter(writer, check).write([MODEL], feed)
    assert content(tmp_path) == b"01234" + bytes(15)
