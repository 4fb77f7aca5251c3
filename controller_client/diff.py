"""What differs between two snapshots: a merge of their two listings, with memory for one entry of each."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeVar

from controller_client.model import Entry, EntryType

_T = TypeVar("_T")


class ChangeKind(enum.Enum):
    """How an entry differs."""

    ADDED = "added"
    DELETED = "deleted"
    CONTENT = "content"
    METADATA = "metadata"
    TYPE = "type"


class Attribute(enum.Enum):
    """What of an entry differs."""

    SIZE = "size"
    MODIFY_TIME = "modify_time"
    LINK_TARGET = "link_target"
    MODE = "mode"
    UID = "uid"
    GID = "gid"


_CONTENT = frozenset({Attribute.SIZE, Attribute.LINK_TARGET})
_FILE_CONTENT = _CONTENT | {Attribute.MODIFY_TIME}


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs.

    Attributes:
        kind: CONTENT if the content may differ (a file's size or modification time, a link's target), METADATA if
            only other attributes do.
        before: the entry in the first snapshot; ``None`` if it was added.
        after: the entry in the second snapshot; ``None`` if it was deleted.
        attributes: what differs, for CONTENT and METADATA.
    """

    path: bytes
    kind: ChangeKind
    before: Entry | None
    after: Entry | None
    attributes: tuple[Attribute, ...] = ()


def archive_order(path: bytes) -> tuple[bytes, ...]:
    """Returns the sort key of the order in which snapshots list their entries: component by component, as bytes.

    >>> sorted([b"a-b", b"a/c", b"a", b""], key=archive_order)
    [b'', b'a', b'a/c', b'a-b']
    """
    return tuple(path.split(b"/")) if path else ()


def compare(before: Entry, after: Entry) -> Change | None:
    """Returns how two entries of the same path differ, or ``None``."""
    if before.type is not after.type:
        return Change(after.path, ChangeKind.TYPE, before, after)
    pairs = (
        (Attribute.SIZE, before.size, after.size),
        (Attribute.MODIFY_TIME, before.modify_time_ns, after.modify_time_ns),
        (Attribute.LINK_TARGET, before.link_target, after.link_target),
        (Attribute.MODE, before.mode, after.mode),
        (Attribute.UID, before.uid, after.uid),
        (Attribute.GID, before.gid, after.gid),
    )
    attributes = tuple(attribute for attribute, old, new in pairs if old != new)
    if not attributes:
        return None
    content = _FILE_CONTENT if after.type is EntryType.FILE else _CONTENT
    kind = ChangeKind.METADATA if content.isdisjoint(attributes) else ChangeKind.CONTENT
    return Change(after.path, kind, before, after, attributes)


async def diff(before: AsyncIterator[Entry], after: AsyncIterator[Entry]) -> AsyncIterator[Change]:
    """Yields what differs between two listings that are both in archive order."""
    old, new = await _next(before), await _next(after)
    while old is not None or new is not None:
        if new is None or (old is not None and archive_order(old.path) < archive_order(new.path)):
            assert old is not None
            yield Change(old.path, ChangeKind.DELETED, old, None)
            old = await _next(before)
        elif old is None or archive_order(new.path) < archive_order(old.path):
            yield Change(new.path, ChangeKind.ADDED, None, new)
            new = await _next(after)
        else:
            change = compare(old, new)
            if change is not None:
                yield change
            old, new = await _next(before), await _next(after)


async def _next(items: AsyncIterator[_T]) -> _T | None:
    try:
        return await items.__anext__()
    except StopAsyncIteration:
        return None
