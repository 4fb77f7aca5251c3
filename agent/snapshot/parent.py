"""The snapshot before, of the same host and workspace: it tells which entries need not be read again."""

from __future__ import annotations

import stat
from collections.abc import Callable

import msgspec

from agent.config.model import ScanConfig
from agent.errors import DataLossError, SnapshotNotFoundError
from agent.pipeline.warnings import Warnings
from agent.repository.manifest_reader import ManifestReader, read_local
from agent.repository.manifest_walk import SavedEntry, finder
from agent.repository.model import Chunk, Entry, EntryType
from agent.repository.repository import Repository
from agent.snapshot.seen import Status

RACY_NS = 3_000_000_000
"""A change this soon before the parent began may share its time with a later one: clocks of file systems tick in steps
(2 seconds on FAT; 10 ms and less elsewhere), so it does not count as older."""

# Bound here, because the scan asks about every entry and an enum's members take long to find.
_FILE, _DIRECTORY = EntryType.FILE, EntryType.DIRECTORY

IsUntouched = Callable[[SavedEntry, Status, int], bool]
"""Asks about an entry of the parent, what it is now, and the hard-link group that it is in now."""

_UNCOMPARED = {"ctime_ns": 0, "inode": 0, "device": 0}


class Parent:
    """The entries of the parent, asked for in archive order along with a scan. For one thread.

    A parent that turns out to be damaged is a warning, and from there on everything is read.

    Args:
        manifest: the parent's manifest.
        scan: what is told apart now.
        warnings: told about damage.
    """

    def __init__(self, manifest: ManifestReader, scan: ScanConfig, warnings: Warnings) -> None:
        self.manifest = manifest
        self._warnings = warnings
        self.chunks: list[Chunk] = manifest.chunks()
        self.last_hard_link_group = manifest.summary.last_hard_link_group
        self.find: Callable[[bytes], SavedEntry | None] = finder(manifest, self._warn)
        """Returns what the parent has under exactly a path; each must come after the one before, in archive order."""
        # Times of files are those of the machine's clock.
        quiet_before_ns = manifest.summary.start_time_ns - manifest.summary.clock_ahead_ns - RACY_NS
        self.is_untouched: IsUntouched = _untouched(quiet_before_ns, scan.suffixes)
        """Says whether all that is saved of an entry still holds, its class and its hard-link group too: nobody has
        changed it, in content or anything else, since the parent read it."""

    def _warn(self, error: DataLossError) -> None:
        _warn_of_damage(self._warnings, self.manifest.summary.id, error)


def _untouched(quiet_before_ns: int, suffixes: tuple[bytes, ...]) -> IsUntouched:
    def is_untouched(saved: SavedEntry, status: Status, group: int) -> bool:
        kind = saved.type
        ctime_ns = status.st_ctime_ns
        size = status.st_size if kind is _FILE else 0
        return (
            saved.facts == (size, status.st_mtime_ns, ctime_ns, status.st_ino, status.st_dev)
            and ctime_ns < quiet_before_ns
            and (kind is _DIRECTORY) == stat.S_ISDIR(status.st_mode)
            and saved.hard_link_group == group
            and (kind is not _FILE or saved.model == saved.path.lower().endswith(suffixes))
        )

    return is_untouched


def is_same(saved: SavedEntry, entry: Entry) -> bool:
    """Says whether an entry without content of its own is saved as it is now, in whatever inode."""
    if entry.type is EntryType.FILE or saved.type is not entry.type:
        return False
    before = msgspec.structs.replace(saved.unplaced(), **_UNCOMPARED)
    return before == msgspec.structs.replace(entry, **_UNCOMPARED)


def open_parent(
    repository: Repository, snapshot_id: str, path: str, scan: ScanConfig, warnings: Warnings
) -> Parent | None:
    """Fetches the parent's manifest into a new local file; returns None if there is none, or a damaged one.

    Args:
        repository: where it is.
        snapshot_id: the parent; empty for none.
        path: the local file, which must stay as long as the parent is used.
        scan: what is told apart now.
        warnings: told about damage.
    """
    if not snapshot_id:
        return None
    try:
        repository.download_manifest(snapshot_id, path)
        manifest = read_local(path)
        repository.check_identity(manifest, snapshot_id)
        return Parent(manifest, scan, warnings)
    except SnapshotNotFoundError:
        return None  # deleted meanwhile
    except DataLossError as error:
        _warn_of_damage(warnings, snapshot_id, error)
        return None


def _warn_of_damage(warnings: Warnings, snapshot_id: str, error: DataLossError) -> None:
    problem = error.message.removeprefix(f"{snapshot_id}: ")
    message = f"the snapshot before, {snapshot_id}, is damaged, so unchanged files are read too: {problem}"
    warnings.add("SNAPSHOT_DAMAGED", message, b"")
