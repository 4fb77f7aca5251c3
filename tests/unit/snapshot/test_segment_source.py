"""What is sent of a segment from its file is what would have been stored of it, or nothing whole."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from agent.config.model import ScanConfig
from agent.pipeline.beneath import DIRECTORY_FLAGS
from agent.repository.frame import BLOCK_SIZE, END, encode
from agent.repository.model import BLOCK, Entry, padded
from agent.snapshot.assembly import SnapshotWarnings
from agent.snapshot.compare import compare
from agent.snapshot.filters import Filter
from agent.snapshot.scan import Scanner
from agent.snapshot.segment_source import PIECE, SegmentSource
from agent.storage.source import SourceLostError

SIZES = [BLOCK, PIECE - 1, PIECE + BLOCK, BLOCK_SIZE, BLOCK_SIZE + PIECE + 700]


class Saved:
    """A file, and the segment that it holds from ``start`` on."""

    def __init__(self, folder: Path, size: int, start: int = 0) -> None:
        self.path = folder / "file"
        content = random.Random(size).randbytes(size)
        self.path.write_bytes(content)
        root_fd = os.open(folder, DIRECTORY_FLAGS)
        scanner = Scanner(root_fd, Filter(), ScanConfig(), False, SnapshotWarnings())
        (self.entry,) = (each for each in compare(scanner.entries(), []) if isinstance(each, Entry) and each.path)
        os.close(root_fd)
        segment = content[start:]
        self.raw = segment + bytes(padded(len(segment)) - len(segment))
        self.start = start

    def source(self, flags: int = os.O_RDONLY) -> SegmentSource:
        fd = os.open(self.path, flags)
        try:
            return SegmentSource(blake3(self.raw).digest(), fd, self.entry, self.start, len(self.raw))
        finally:
            os.close(fd)


def sent(source: SegmentSource) -> bytes:
    return b"".join(bytes(piece) for piece in source.pieces())


@pytest.mark.parametrize("size", SIZES)
def test_the_frame_is_sent_as_often_as_it_takes(tmp_path: Path, size: int) -> None:
    saved = Saved(tmp_path, size)
    source = saved.source()
    frame = encode(saved.raw)
    assert source.size == len(frame)
    assert sent(source) == frame
    assert sent(source) == frame
    source.close()
    source.close()


def test_a_segment_is_sent_from_where_it_begins(tmp_path: Path) -> None:
    saved = Saved(tmp_path, 3 * BLOCK_SIZE + BLOCK - 2, start=BLOCK_SIZE)
    assert sent(saved.source()) == encode(saved.raw)


CHANGES: dict[str, Callable[[Path], object]] = {
    "first byte": lambda path: _write(path, 0),
    "last byte": lambda path: _write(path, BLOCK_SIZE + 6),
    "cut": lambda path: os.truncate(path, BLOCK_SIZE),
    "empty": lambda path: os.truncate(path, 0),
}


def _write(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_file_that_changed_never_gets_to_the_end(tmp_path: Path, change: Callable[[Path], object]) -> None:
    saved = Saved(tmp_path, BLOCK_SIZE + 7)
    source = saved.source()
    change(saved.path)
    pieces: list[bytes] = []
    with pytest.raises(SourceLostError, match="file has changed"):
        pieces.extend(bytes(piece) for piece in source.pieces())
    assert sum(map(len, pieces)) == source.size - len(END)


def test_what_is_written_behind_the_segment_does_not_matter(tmp_path: Path) -> None:
    saved = Saved(tmp_path, BLOCK_SIZE + BLOCK - 2)
    source = saved.source()
    with saved.path.open("ab") as file:
        file.write(b"more")
    assert sent(source) == encode(saved.raw)


def test_a_file_that_cannot_be_read_is_lost(tmp_path: Path) -> None:
    with pytest.raises(SourceLostError, match="cannot be read: Bad file descriptor"):
        sent(Saved(tmp_path, BLOCK).source(os.O_WRONLY))
