"""What the lookout of a scan is told, and tells."""

from __future__ import annotations

import os

import msgspec

from agent.snapshot.listing import Listing


class Facts(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What tells that an entry was not touched, with the names of ``os.stat_result``."""

    st_mode: int
    st_nlink: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_ino: int
    st_dev: int


Status = os.stat_result | Facts


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A directory that was looked at.

    Attributes:
        path: the directory; empty for the workspace.
        listing: the names in it.
        facts: of the names, in their order; ``None`` for what the filter leaves out or could not be looked at.
    """

    path: bytes
    listing: Listing
    facts: list[Facts | None]


class Orders(msgspec.Struct, frozen=True):
    """What the lookout goes through; fields as in ``SnapshotRequest``."""

    exclude: tuple[str, ...]
    include: tuple[str, ...]
    exclude_caches: bool
    one_file_system: bool
