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
    segments.look_in_place()
    sizes = segments.sought_sizes()
    elsewhere = Elsewhere(root_fd, sizes, hands.check) if packs.left or sizes else None
    if elsewhere is not None:
        segments.look_elsewhere(elsewhere)
    # Before packs are written, whose files may take the place of what is copied from.
    segments.copy()
    if elsewhere is not None:
        packs.build(elsewhere)
    return msgspec.structs.replace(plan, packs=packs.left, segments=segments.left, empty=segments.empty)
