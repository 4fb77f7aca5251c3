"""Markers of snapshots that are being made, which tell later ones that there may be chunks without a manifest."""

from __future__ import annotations

import contextlib

import msgspec

from agent.errors import GpusnapError, ObjectNotFoundError
from agent.repository import keys
from agent.storage.store import Store

YOUNG_NS = 12 * 3600 * 10**9
"""What is younger, by the store's clock, may be relied on without a manifest: half of the time that garbage is kept."""

OLD_NS = 2 * YOUNG_NS
"""Markers that are older are removed: what their snapshots stored is garbage by now."""

MARKERS = 64
"""Markers that are looked at, the newest first."""


class Marker(msgspec.Struct, frozen=True):
    """What a marker says: whose snapshot it is. For people, and for the next snapshot of the same workspace."""

    host: str
    workspace: bytes


class Interrupted:
    """The marker of one snapshot, and those of snapshots that were interrupted or are being made beside it.

    Args:
        store: the repository's.
        snapshot_id: the snapshot's id.
        marker: what is written about it.
    """

    def __init__(self, store: Store, snapshot_id: str, marker: Marker) -> None:
        self._store = store
        self._id = snapshot_id
        self._marker = marker
        self._others: list[str] = []

    def begin(self) -> int | None:
        """Writes the marker and looks for others.

        Returns:
            The store's clock in nanoseconds, if there are chunks of other snapshots to be found; otherwise ``None``.

        Raises:
            GpusnapError: the store cannot be listed or written.
        """
        self._store.write(keys.running(self._id), msgspec.json.encode(self._marker))
        listed = {found.key.removeprefix(keys.RUNNING): found.modified_ns for found in self._store.list(keys.RUNNING)}
        now = listed.pop(self._id, None)
        if now is None:
            return None
        for snapshot_id in sorted(filter(keys.is_snapshot_id, listed), reverse=True)[:MARKERS]:
            age = now - listed[snapshot_id]
            if age >= OLD_NS or self._is_committed(snapshot_id):
                self._remove(snapshot_id)
            elif age < YOUNG_NS:
                self._others.append(snapshot_id)
        return now if self._others else None

    def end(self) -> None:
        """Removes the marker, now that the snapshot is committed, and those of earlier attempts at the same workspace.

        What it does not manage to remove the next snapshot does: the snapshot itself is complete.
        """
        self._remove(self._id)
        for snapshot_id in self._others:
            with contextlib.suppress(GpusnapError, msgspec.DecodeError):
                if self._read(snapshot_id) == self._marker:
                    self._remove(snapshot_id)

    def _read(self, snapshot_id: str) -> Marker:
        return msgspec.json.decode(self._store.read(keys.running(snapshot_id)), type=Marker)

    def _remove(self, snapshot_id: str) -> None:
        # Credentials may not permit it; a marker that stays costs others a listing, and nothing else.
        with contextlib.suppress(GpusnapError):
            self._store.delete(keys.running(snapshot_id))

    def _is_committed(self, snapshot_id: str) -> bool:
        try:
            self._store.head(keys.manifest(snapshot_id))
        except ObjectNotFoundError:
            return False
        return True
