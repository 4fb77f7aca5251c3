"""Finds what the target holds of what a restore is to bring, keeps or copies it, and leaves the rest to be fetched."""

from __future__ import annotations

import msgspec

from agent.repository.manifest_reader import ManifestReader
from agent.restore.elsewhere import Elsewhere
from agent.restore.hands import Hands
from agent.restore.keep import Keeper
from agent.restore.notes import Notes
from agent.restore.plan import RestorePlan
from agent.restore.reuse_packs import PackReuse
from agent.restore.reuse_segments import SegmentReuse


def reuse(
    plan: RestorePlan,
    manifest: ManifestReader,
    root_fd: int,
    hands: Hands,
    keeper: Keeper,
    intact_groups: frozenset[int],
    notes: Notes,
) -> RestorePlan:
    """Returns what is left to be fetched.

    Args:
        keeper: for the calling thread.
        intact_groups: as for ``present.may_be_kept``.

    Raises:
        GpusnapError: the target cannot be written.
    """
    packs = PackReuse(plan, manifest, hands, intact_groups, notes)
    segments = SegmentReuse(plan, hands, keeper, intact_groups, notes)
    packs.keep()
    segments.keep()
    if packs.left or segments.left:
        elsewhere = Elsewhere(root_fd, hands.check)
        packs.build(elsewhere)
        segments.search(elsewhere)
        segments.copy()
    return msgspec.structs.replace(plan, packs=packs.left, segments=segments.left, empty=segments.empty)
