"""Large files: published once their last segment is there, whichever thread brings it."""

from __future__ import annotations

from agent.events import FileReady, Stage
from agent.restore.notes import Notes
from agent.restore.plan import LargeFile, SegmentTarget
from agent.restore.writer import Writer


class Publisher:
    """Publishes large files. One per thread, as its writer is."""

    def __init__(self, writer: Writer, notes: Notes) -> None:
        self._writer = writer
        self._notes = notes

    def take_over(self, file: LargeFile) -> bool:
        """Goes on with what a killed restore left of a file, if it did; says whether."""
        return self._writer.large.take_over(file)

    def begin(self, targets: list[SegmentTarget], needs_room: bool = True) -> None:
        """Makes the unfinished files that segments go into, unless that was done.

        Args:
            needs_room: as for ``LargeFiles.begin``.
        """
        for file in {target.file for target in targets}:
            self._writer.large.begin(file, needs_room)

    def written(self, targets: list[SegmentTarget]) -> None:
        """Takes note of segments that are there, and publishes the files that are complete with them."""
        for target in targets:
            file = target.file
            with file.lock:
                file.left -= 1
                is_complete = file.left == 0 and not file.is_lost
            if is_complete:
                self.publish(file)

    def publish(self, file: LargeFile) -> None:
        """Gives a complete file its final name."""
        self._writer.large.publish(file)
        self._notes.not_made.update(self._writer.take_not_made())
        file.is_published = True
        self._notes.meter.add(Stage.WRITE, entries=1)
        self._notes.emit(FileReady(file.entry.path, file.entry.size))

    def publish_empty(self, file: LargeFile) -> None:
        """Makes a large file that has no stored content."""
        self._writer.large.begin(file)
        self.publish(file)

    def close(self) -> None:
        """Closes the open directories."""
        self._writer.close()
