"""Packs of which the target holds all: their files are kept, or built into the pack again and written from there."""

from __future__ import annotations

import msgspec

from agent.repository.manifest_reader import ManifestReader
from agent.restore.elsewhere import Elsewhere
from agent.restore.hands import Hand, Hands
from agent.restore.notes import Notes
from agent.restore.plan import PackJob, RestorePlan
from agent.restore.task import PackBuild, PackCheck


class PackReuse:
    """The search for packs.

    Attributes:
        left: the packs that must be fetched.
    """

    def __init__(
        self, plan: RestorePlan, manifest: ManifestReader, hands: Hands, intact_groups: frozenset[int], notes: Notes
    ) -> None:
        self._manifest = manifest
        self._hands = hands
        self._notes = notes
        self.left = [
            msgspec.structs.replace(job, groups=tuple(intact_groups.intersection(job.groups))) for job in plan.packs
        ]

    def keep(self) -> None:
        """Keeps the packs of which nothing is missing."""
        kept: set[PackJob] = set()

        def keep(hand: Hand, job: PackJob) -> None:
            if self._hands.do(hand, PackCheck(job)).is_done:
                kept.add(job)

        self._hands.each(self.left, keep)
        self._leave_out(kept)

    def build(self, elsewhere: Elsewhere) -> None:
        """Builds the packs of which all files may be there, and writes those that turn out to be right."""
        built: set[PackJob] = set()

        def build(hand: Hand, job: PackJob) -> None:
            if not job.count:
                return  # only further names of what is in it are chosen
            sources = self._sources(job, elsewhere)
            if sources is None:
                return
            written = self._hands.do(hand, PackBuild(job, sources))
            if written.is_done:
                self._notes.present.add(copied=written.content_bytes)
                built.add(job)

        self._hands.each(self.left, build)
        self._leave_out(built)

    def _sources(self, job: PackJob, elsewhere: Elsewhere) -> tuple[tuple[int, bytes], ...] | None:
        """Returns where the files of a pack may be, but for those under their names; None if one is nowhere."""
        sources: list[tuple[int, bytes]] = []
        for place, entry in enumerate(self._manifest.run_of_entries(job.first, job.count)):
            if not entry.data_size:
                continue
            path = elsewhere.guess(entry)
            if path is None:
                return None
            if path != entry.path:
                sources.append((place, path))
        return tuple(sources)

    def _leave_out(self, done: set[PackJob]) -> None:
        self.left = [job for job in self.left if job not in done]
