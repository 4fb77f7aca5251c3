"""Writes the entries of a pack that was decoded and verified: whole directories at once where that is possible."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import msgspec

from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import Entry, EntryType
from agent.restore.keep import Keeper
from agent.restore.plan import WITHOUT_CONTENT, PackJob, entries_of
from agent.restore.selection import Selection
from agent.restore.subtrees import whole_trees
from agent.restore.task import Written
from agent.restore.tree_writer import TreeWriter
from agent.restore.writer import Writer


class PackWriter:
    """Writes packs. One per thread.

    Args:
        trees: writes whole directories; ``None`` where some entries may be there already, or are not wanted.
        check: called often; raises when all shall stop.
    """

    def __init__(
        self,
        manifest: ManifestReader,
        selection: Selection,
        writer: Writer,
        keeper: Keeper,
        trees: TreeWriter | None,
        check: Callable[[], None],
    ) -> None:
        self._manifest = manifest
        self._selection = selection
        self._writer = writer
        self._keeper = keeper
        self._trees = trees
        self._check = check

    def write(self, job: PackJob, raw: memoryview) -> Written:
        """Writes a pack from its raw bytes; says what was written and kept, without the time that took.

        Raises:
            GpusnapError: an entry cannot be written; the message names it.
        """
        tally = _Tally()
        try:
            if self._trees is None:
                chosen = itertools.chain(entries_of(self._manifest, self._selection, job), job.extra)
                self._one_by_one(chosen, job, raw, tally)
            else:
                self._by_trees(self._trees, job, raw, tally)
            self._writer.finish()
        finally:
            # Nobody reads the pack after this.
            self._writer.settle()
        return tally.written()

    def _by_trees(self, trees: TreeWriter, job: PackJob, raw: memoryview, tally: _Tally) -> None:
        run = list(self._manifest.run_of_entries(job.first, job.count))
        start = 0
        for tree in whole_trees(run):
            self._one_by_one(run[start : tree.start], job, raw, tally)
            start = tree.stop
            self._write_tree(trees, run, tree, job, raw, tally)
        self._one_by_one(run[start:], job, raw, tally)

    def _write_tree(
        self, trees: TreeWriter, run: Sequence[Entry], tree: range, job: PackJob, raw: memoryview, tally: _Tally
    ) -> None:
        entries = run[tree.start : tree.stop]

        def done(finished: list[int] | None) -> None:
            if finished is None:
                self._one_by_one(entries, job, raw, tally)
            else:
                tally.directories += finished
                tally.count(entry for entry in entries if entry.type not in WITHOUT_CONTENT)

        trees.write(run, tree, raw, done)

    def _one_by_one(self, entries: Iterable[Entry], job: PackJob, raw: memoryview, tally: _Tally) -> None:
        for entry in entries:
            if entry.type in WITHOUT_CONTENT:
                continue
            self._check()
            content = raw[entry.data_offset : entry.data_offset + entry.data_size]
            if self._keeper.keeps(entry, job.groups, content):
                tally.kept_files += entry.type is EntryType.FILE
                tally.kept_bytes += entry.data_size
            else:
                self._writer.write_small(entry, content)
                tally.count((entry,))


class _Tally(msgspec.Struct):
    """Fields as in ``Written``."""

    content_bytes: int = 0
    model_bytes: int = 0
    entries: int = 0
    kept_files: int = 0
    kept_bytes: int = 0
    directories: list[int] = msgspec.field(default_factory=list)

    def count(self, entries: Iterable[Entry]) -> None:
        """Counts entries that were written."""
        for entry in entries:
            self.entries += 1
            self.content_bytes += entry.data_size
            if entry.model:
                self.model_bytes += entry.data_size

    def written(self) -> Written:
        """Returns it as a part of the answer."""
        return Written(
            content_bytes=self.content_bytes,
            model_bytes=self.model_bytes,
            entries=self.entries,
            kept_files=self.kept_files,
            kept_bytes=self.kept_bytes,
            directories=tuple(self.directories),
        )
