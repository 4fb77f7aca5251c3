"""A repository: the snapshots in one bucket and prefix.

All methods block; call them from a thread. They raise the store's errors, DataLossError for damaged objects and
RepositoryVersionError for a format that this version does not know.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypeVar

import msgspec

from agent import foreign
from agent.errors import (
    DataLossError,
    ObjectNotFoundError,
    RepositoryVersionError,
    SnapshotAmbiguousError,
    SnapshotNotFoundError,
)
from agent.repository import keys
from agent.repository.grace import DEFAULT_SECONDS, LEAST_SECONDS, MOST_SECONDS, Grace
from agent.repository.manifest_reader import TAIL_SIZE, ManifestReader, read_local
from agent.repository.model import (
    FORMAT_VERSION,
    MAX_CHUNK_SIZE,
    Entry,
    ManifestWarning,
    SnapshotSummary,
    UnreadableSnapshot,
)
from agent.repository.presence import is_there
from agent.storage.store import Store

LATEST = "latest"

READS_AT_ONCE = 16
"""Manifests that a listing reads at the same time: it waits for the store, not for the processor."""

MANIFESTS_PER_BATCH = 128

INFO_SIZE = 64 << 10
"""Bytes of repository.json that are read at most; it has some 200."""

_T = TypeVar("_T")

_NULL = msgspec.Raw(b"null")


class RepositoryInfo(msgspec.Struct, frozen=True):
    """What repository.json says.

    Attributes:
        grace_seconds: how long what nobody needs is kept; a repository's own, so that all agents agree.
        encryption: for later versions: a reader of this one refuses it.
    """

    format_version: int
    id: str
    chunk_size: int
    created: str
    grace_seconds: Annotated[int, msgspec.Meta(ge=LEAST_SECONDS, le=MOST_SECONDS)] = DEFAULT_SECONDS
    encryption: msgspec.Raw = _NULL

    @property
    def grace(self) -> Grace:
        """The times that keep prune and running snapshots apart."""
        return Grace(self.grace_seconds)


class _Version(msgspec.Struct, frozen=True):
    """What every version of repository.json has."""

    format_version: int


_info_decoder = msgspec.json.Decoder(RepositoryInfo)
_version_decoder = msgspec.json.Decoder(_Version)


class Repository:
    """The snapshots in a store, for one operation."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._grace_seconds: int | None = None

    @property
    def store(self) -> Store:
        """The store it lies in."""
        return self._store

    def info(self) -> RepositoryInfo | None:
        """Returns what repository.json says, or None if there is no repository yet.

        Raises:
            RepositoryVersionError: another format version, or an encrypted repository.
            DataLossError: it is damaged, or says another grace than before.
        """
        return _twice(self._same_info)

    def _same_info(self) -> RepositoryInfo | None:
        info = self._info()
        if info is not None:
            self._grace_seconds = self._grace_seconds or info.grace_seconds
            # Nothing in it tells a flipped bit, and what a wrong grace leads to is lost chunks.
            if info.grace_seconds != self._grace_seconds:
                raise DataLossError(
                    f"{self._store.location}/{keys.REPOSITORY} said a grace of {self._grace_seconds} seconds, and says "
                    f"{info.grace_seconds} now: it was damaged on the way, or somebody has changed it",
                    hint="repeat the request",
                )
        return info

    def _info(self) -> RepositoryInfo | None:
        try:
            raw = self._store.read(keys.REPOSITORY, 0, INFO_SIZE)
        except ObjectNotFoundError:
            return None
        where = f"{self._store.location}/{keys.REPOSITORY}"
        version = foreign.decode(raw, _version_decoder, where).format_version
        if version != FORMAT_VERSION:
            raise RepositoryVersionError(f"{where} says format version {version}; known here is {FORMAT_VERSION}")
        info = foreign.decode(raw, _info_decoder, where)
        if info.encryption != _NULL:
            raise RepositoryVersionError(f"{where} says that the repository is encrypted, which is not known here")
        return info

    def ensure(self) -> RepositoryInfo:
        """Makes the repository if there is none yet, and returns what repository.json says."""
        info = self.info()
        if info is None:
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            new = RepositoryInfo(FORMAT_VERSION, secrets.token_hex(16), MAX_CHUNK_SIZE, created)
            self._store.write(keys.REPOSITORY, msgspec.json.format(msgspec.json.encode(new)))
            # Two agents may create it at once: the one that the store kept is the repository.
            info = self.info() or new
        return info

    def snapshot_ids(self) -> list[str]:
        """Returns the ids of all committed snapshots, the newest first."""
        self.info()
        folders = self._store.list_folders(keys.SNAPSHOTS)
        return sorted((name for name in folders if keys.is_snapshot_id(name)), reverse=True)

    def list_snapshots(self, limit: int, before: str = "") -> list[SnapshotSummary | UnreadableSnapshot]:
        """Returns up to ``limit`` snapshots, the newest first; with ``before``, only those with smaller ids.

        A folder without a manifest is what an interrupted snapshot leaves: it is not listed. A manifest that cannot be
        read hides no other snapshot.
        """
        ids = [name for name in self.snapshot_ids() if not before or name < before]
        found: list[SnapshotSummary | UnreadableSnapshot] = []
        with ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="summaries") as pool:
            while ids and len(found) < limit:
                batch = min(limit - len(found), MANIFESTS_PER_BATCH)
                summaries = pool.map(self._listed, ids[:batch])
                found.extend(summary for summary in summaries if summary is not None)
                ids = ids[batch:]
        return found

    def resolve(self, name: str) -> str:
        """Returns the id of the snapshot called ``name``: an id, a unique prefix of one, or "latest".

        A whole id is believed without listing.

        Raises:
            SnapshotNotFoundError: no snapshot is called so.
            SnapshotAmbiguousError: several are.
        """
        if keys.is_snapshot_id(name):
            return name
        if name == LATEST:
            latest = self.list_snapshots(1)
            if not latest:
                raise SnapshotNotFoundError(f"{self._store.location} holds no snapshot", hint="make one first")
            return latest[0].id
        matches = [found for found in self.snapshot_ids() if name and found.startswith(name)]
        committed = [found for found in matches if is_there(self._store, keys.manifest(found))]
        if not committed:
            raise SnapshotNotFoundError(f"no snapshot in {self._store.location} is called {name!r}")
        if len(committed) > 1:
            shown = ", ".join(committed[:3]) + (", ..." if len(committed) > 3 else "")
            raise SnapshotAmbiguousError(f"{name!r} names {len(committed)} snapshots: {shown}")
        return committed[0]

    def manifest(self, snapshot_id: str) -> ManifestReader:
        """Opens a snapshot's manifest for reading by range.

        Raises:
            SnapshotNotFoundError: there is no such snapshot; what is read later raises it too, if it was deleted then.
            DataLossError: the manifest is damaged; the message names the snapshot.
        """
        return _twice(lambda: self._open(snapshot_id, keys.manifest(snapshot_id)))

    def deleted_manifest(self, snapshot_id: str) -> ManifestReader:
        """Opens the manifest that a deleted snapshot has left in the trash; raises as ``manifest``."""
        return _twice(lambda: self._open(snapshot_id, keys.tombstone(snapshot_id)))

    def _open(self, snapshot_id: str, key: str) -> ManifestReader:
        def read(offset: int, length: int) -> bytes:
            try:
                return self._store.read(key, offset, length)
            except ObjectNotFoundError as error:
                raise self._not_found(snapshot_id) from error

        try:
            tail, size = self._store.read_tail(key, TAIL_SIZE)
        except ObjectNotFoundError as error:
            raise self._not_found(snapshot_id) from error
        try:
            reader = ManifestReader(read, tail, size)
        except (DataLossError, RepositoryVersionError) as error:
            raise type(error)(f"{snapshot_id}: {error.message}") from error
        self.check_identity(reader, snapshot_id)
        return reader

    @staticmethod
    def check_identity(manifest: ManifestReader, snapshot_id: str) -> None:
        """Makes sure that a manifest is that of ``snapshot_id``.

        Raises:
            DataLossError: it is another one's.
        """
        if manifest.summary.id != snapshot_id:
            raise DataLossError(f"the manifest of {snapshot_id} is that of {manifest.summary.id!r}")

    def download_manifest(self, snapshot_id: str, path: str) -> None:
        """Writes a snapshot's manifest to a new local file; one that arrives damaged is fetched once more.

        Raises:
            SnapshotNotFoundError: there is no such snapshot.
            DataLossError: it is damaged.
            RepositoryVersionError: it is of an unknown format version.
        """
        _twice(lambda: self._download_manifest(snapshot_id, path))

    def _download_manifest(self, snapshot_id: str, path: str) -> None:
        try:
            self._store.download(keys.manifest(snapshot_id), path)
        except ObjectNotFoundError as error:
            raise self._not_found(snapshot_id) from error
        try:
            read_local(path).check_hashes()
        except (DataLossError, RepositoryVersionError) as error:
            os.unlink(path)
            raise type(error)(f"{snapshot_id}: {error.message}") from error

    def summary(self, snapshot_id: str) -> SnapshotSummary:
        """Returns the summary of one snapshot."""
        return self.manifest(snapshot_id).summary

    def warnings(self, snapshot_id: str, limit: int) -> list[ManifestWarning]:
        """Returns the first ``limit`` warnings of one snapshot."""
        return self.manifest(snapshot_id).warnings(limit)

    def list_entries(self, snapshot_id: str, path: bytes, after: bytes | None, limit: int) -> list[Entry]:
        """Returns up to ``limit`` entries at and below ``path`` in archive order, those after ``after`` only.

        They come without extended attributes and extents, which may be large.
        """
        reader = self.manifest(snapshot_id)
        start = path if after is None else after
        found: list[Entry] = []
        for entry in reader.entries_from(start):
            if path and entry.path != path and not entry.path.startswith(path + b"/"):
                break
            if entry.path == after:
                continue
            found.append(msgspec.structs.replace(entry, xattrs=(), extents=()))
            if len(found) == limit:
                break
        return found

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Deletes a snapshot, a damaged one too; interrupted anywhere, the same call completes it.

        The manifest is kept in the trash, where it protects its chunks for the grace, and deleted before anything else,
        so that nothing half-deleted is ever listed.

        Raises:
            SnapshotNotFoundError: there is no such snapshot.
        """
        try:
            self._store.copy(keys.manifest(snapshot_id), keys.tombstone(snapshot_id))
        except ObjectNotFoundError as error:
            if not self._is_half_deleted(snapshot_id):
                raise self._not_found(snapshot_id) from error
        self._store.delete(keys.manifest(snapshot_id))
        self._store.delete(keys.chunk_list(snapshot_id))

    def _is_half_deleted(self, snapshot_id: str) -> bool:
        left = (keys.tombstone(snapshot_id), keys.chunk_list(snapshot_id))
        return all(is_there(self._store, key) for key in left)

    def _listed(self, snapshot_id: str) -> SnapshotSummary | UnreadableSnapshot | None:
        try:
            return self.summary(snapshot_id)
        except SnapshotNotFoundError:
            return None
        except (DataLossError, RepositoryVersionError) as error:
            return UnreadableSnapshot(snapshot_id, error.message)

    def _not_found(self, snapshot_id: str) -> SnapshotNotFoundError:
        return SnapshotNotFoundError(f"no snapshot in {self._store.location} is called {snapshot_id!r}")


def _twice(read: Callable[[], _T]) -> _T:
    """Reads something again that came damaged: the damage may be on the way."""
    try:
        return read()
    except (DataLossError, RepositoryVersionError):
        return read()
