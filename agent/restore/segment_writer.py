"""Writes the content of a segment into the unfinished files that it belongs into, block by block as it comes.

A direct write waits for the disk. So blocks are written by other threads while the next one is decoded and hashed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import msgspec

from agent.pipeline.behind import Behind
from agent.pipeline.local_errors import local_error
from agent.restore.blocks import WRITES_AT_ONCE
from agent.restore.plan import SegmentPlace
from agent.restore.segment_file import SegmentFile
from agent.restore.task import Written
from agent.restore.writer import Writer

FILES_AT_ONCE = 128
"""Files that one segment is written into at once: a process may have only so many descriptors."""

Take = Callable[[int, memoryview], None]
"""Gets a block of a segment and where in it that begins; the block stays as it is for ``WRITES_AT_ONCE`` more calls."""


class _Clock(msgspec.Struct):
    """Seconds of writing, by several threads, and of waiting until that was done."""

    writing: list[float] = msgspec.field(default_factory=list)
    waiting: float = 0.0


def written_to(places: Sequence[SegmentPlace]) -> Written:
    """Returns what is to be said of a segment that is in these places now."""
    return Written(
        content_bytes=sum(place.size for place in places),
        model_bytes=sum(place.size for place in places if place.entry.model),
    )


class SegmentWriter:
    """Writes segments. One per thread.

    Args:
        check: called often; raises when all shall stop.
    """

    def __init__(self, writer: Writer, check: Callable[[], None]) -> None:
        self._writer = writer
        self._check = check
        self._behind = Behind("segment-write", WRITES_AT_ONCE)

    def close(self) -> None:
        """Ends its threads."""
        self._behind.close()

    def write(self, places: Sequence[SegmentPlace], feed: Callable[[Take], None]) -> Written:
        """Writes a segment wherever it belongs; says what was written, and how long ``feed`` and writing took.

        Args:
            feed: hands out the blocks, in order; called again for every ``FILES_AT_ONCE`` files.

        Raises:
            GpusnapError: a file cannot be written; or whatever ``feed`` raises.
        """
        by_file: dict[bytes, list[SegmentPlace]] = {}
        for place in places:
            by_file.setdefault(place.entry.path, []).append(place)
        groups = list(by_file.values())
        begun = time.monotonic()
        clock = _Clock()
        for start in range(0, len(groups), FILES_AT_ONCE):
            self._write_into(groups[start : start + FILES_AT_ONCE], feed, clock)
        decoding = time.monotonic() - begun - clock.waiting
        return msgspec.structs.replace(written_to(places), decode_seconds=decoding, write_seconds=sum(clock.writing))

    def _write_into(self, groups: list[list[SegmentPlace]], feed: Callable[[Take], None], clock: _Clock) -> None:
        """Writes a segment into some files, each with all its places."""
        files: list[SegmentFile] = []

        def write(position: int, raw: memoryview) -> None:
            begun = time.monotonic()
            for place, file in places:
                part = raw[: max(place.size - position, 0)]
                if not part:
                    continue
                try:
                    file.write(place.start + position, part)
                except OSError as error:
                    raise local_error(f"{os.fsdecode(place.entry.path)} cannot be written", error) from error
            clock.writing.append(time.monotonic() - begun)

        def take(position: int, raw: memoryview) -> None:
            self._check()
            begun = time.monotonic()
            self._behind.do(lambda: write(position, raw))
            clock.waiting += time.monotonic() - begun

        try:
            files.extend(self._writer.large.open(group[0].entry) for group in groups)
            places = [(place, file) for group, file in zip(groups, files, strict=True) for place in group]
            feed(take)
            begun = time.monotonic()
            self._behind.finish()
            clock.waiting += time.monotonic() - begun
        finally:
            self._behind.settle()
            for file in files:
                file.close()
