"""Further names of hard-linked files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from agent.pipeline.beneath import Beneath
from agent.repository.manifest_reader import ManifestReader
from agent.repository.model import Entry, EntryType
from agent.restore.selection import Selection

_HARD_LINKS = frozenset({EntryType.HARD_LINK})


def further_names(
    manifest: ManifestReader, selection: Selection, promoted: Mapping[int, bytes]
) -> Iterator[tuple[Entry, bytes]]:
    """Yields the chosen further names, each with the path of the name that has the content.

    Args:
        promoted: as in ``RestorePlan``.
    """
    for entry in _hard_links(manifest):
        original = promoted.get(entry.hard_link_group, entry.link_target)
        if selection.covers(entry.path) and original != entry.path:
            yield entry, original


def intact_groups(
    root_fd: int,
    manifest: ManifestReader,
    selection: Selection,
    promoted: Mapping[int, bytes],
    check: Callable[[], None],
) -> frozenset[int]:
    """Returns the groups whose chosen names are one file of the target that has no names but those of the snapshot.

    Args:
        promoted: as in ``RestorePlan``.
        check: called for each name; raises when all shall stop.
    """
    left: dict[int, int] = {}
    broken: set[int] = set()
    with Beneath(root_fd) as beneath, Beneath(root_fd) as beneath_first:
        for entry in _hard_links(manifest):
            check()
            group = entry.hard_link_group
            first = _facts(beneath_first, promoted.get(group, entry.link_target))
            if group not in left:
                left[group] = first.st_nlink if first is not None else -1
                left[group] -= _is_same(first, _facts(beneath, entry.link_target))
            if _is_same(first, _facts(beneath, entry.path)):
                left[group] -= 1
            elif selection.covers(entry.path):
                broken.add(group)
    return frozenset(group for group, count in left.items() if count == 0 and group not in broken)


def _hard_links(manifest: ManifestReader) -> Iterator[Entry]:
    for number in range(manifest.entry_sections):
        yield from manifest.of_types(number, _HARD_LINKS)


def _is_same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)


def _facts(beneath: Beneath, path: bytes) -> os.stat_result | None:
    try:
        parent_fd, name = beneath.parent(path)
        return os.lstat(name, dir_fd=parent_fd)
    except OSError:
        return None
