"""Writes the content of a segment into the unfinished files that it belongs into, however it comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from agent.pipeline.local_errors import local_error
from agent.restore.plan import SegmentPlace
from agent.restore.segment_file import SegmentFile
from agent.restore.task import Written
from agent.restore.writer import Writer

FILES_AT_ONCE = 128
"""Files that one segment is written into at once: a process may have only so many descriptors."""

Take = Callable[[int, memoryview], None]
"""Gets a block of a segment and where in it that begins."""


def written_to(places: Sequence[SegmentPlace], seconds: float) -> Written:
    """Returns what is to be said of a segment that was written to these places, which took so long."""
    return Written(
        content_bytes=sum(place.size for place in places),
        model_bytes=sum(place.size for place in places if place.entry.model),
        write_seconds=seconds,
    )


class SegmentWriter:
    """Writes segments. One per thread.

    Args:
        check: called often; raises when all shall stop.
    """

    def __init__(self, writer: Writer, check: Callable[[], None]) -> None:
        self._writer = writer
        self._check = check

    def write(self, places: Sequence[SegmentPlace], feed: Callable[[Take], None]) -> Written:
        """Writes a segment wherever it belongs; says what was written.

        Args:
            feed: hands out the blocks, in order; called again for every ``FILES_AT_ONCE`` files.

        Raises:
            GpusnapError: a file cannot be written; or whatever ``feed`` raises.
        """
        by_file: dict[bytes, list[SegmentPlace]] = {}
        for place in places:
            by_file.setdefault(place.entry.path, []).append(place)
        groups = list(by_file.values())
        writing = 0.0
        for start in range(0, len(groups), FILES_AT_ONCE):
            writing += self._write_into(groups[start : start + FILES_AT_ONCE], feed)
        return written_to(places, writing)

    def _write_into(self, groups: list[list[SegmentPlace]], feed: Callable[[Take], None]) -> float:
        """Writes a segment into some files, each with all its places; returns the seconds that writing took."""
        writing = 0.0
        files: list[SegmentFile] = []

        def take(position: int, raw: memoryview) -> None:
            nonlocal writing
            self._check()
            begun = time.monotonic()
            for place, file in places:
                part = raw[: max(place.size - position, 0)]
                try:
                    file.write(place.start + position, part)
                except OSError as error:
                    raise local_error(f"{os.fsdecode(place.entry.path)} cannot be written", error) from error
            writing += time.monotonic() - begun

        try:
            files.extend(self._writer.open_large(group[0].entry) for group in groups)
            places = [(place, file) for group, file in zip(groups, files, strict=True) for place in group]
            feed(take)
        finally:
            for file in files:
                file.close()
        return writing
