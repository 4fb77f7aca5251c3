"""Markers of snapshots that are being made, which tell later ones that there may be chunks without a manifest."""

from __future__ import annotations

import contextlib

import msgspec

from agent import foreign
from agent.errors import GpusnapError
from agent.repository import keys
from agent.repository.presence import is_there
from agent.storage.clock import read_clock
from agent.storage.store import Store

YOUNG_SECONDS = 12 * 3600
"""What is younger, by the store's clock, is worth looking for: an interrupted snapshot is made again soon, or never."""

OLD_SECONDS = 2 * YOUNG_SECONDS
"""Markers that are older are removed: what their snapshots stored is garbage by now."""

MARKERS = 64
"""Markers that are looked at, the newest first."""

MARKER_SIZE = 64 << 10
"""Bytes of a marker that are read at most: paths have 4 KiB."""


class Marker(msgspec.Struct, frozen=True):
    """What a marker says: whose snapshot it is. For people, and for the next snapshot of the same workspace."""

    host: str
    workspace: bytes


_decoder = msgspec.json.Decoder(Marker)


class Beginning(msgspec.Struct, frozen=True):
    """How a snapshot begins.

    Attributes:
        now_s: the store's clock, in whole seconds since 1970.
        has_others: whether there may be chunks of other snapshots that no manifest names.
    """

    now_s: int
    has_others: bool


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

    def begin(self) -> Beginning:
        """Writes the marker, reads the store's clock from it, and looks for others.

        Raises:
            GpusnapError: the store cannot be listed or written.
        """
        self._store.write(keys.running(self._id), msgspec.json.encode(self._marker))
        listed = {found.key.removeprefix(keys.RUNNING): found.modified_s for found in self._store.list(keys.RUNNING)}
        now = listed.pop(self._id, None)
        if now is None:
            return Beginning(read_clock(self._store), has_others=False)
        for snapshot_id in sorted(filter(keys.is_snapshot_id, listed), reverse=True)[:MARKERS]:
            age = now - listed[snapshot_id]
            if age >= OLD_SECONDS or is_there(self._store, keys.manifest(snapshot_id)):
                self._remove(snapshot_id)
            elif age < YOUNG_SECONDS:
                self._others.append(snapshot_id)
        return Beginning(now, has_others=bool(self._others))

    def end(self) -> None:
        """Removes the marker, now that the snapshot is committed, and those of earlier attempts at the same workspace.

        What it does not manage to remove the next snapshot does: the snapshot itself is complete.
        """
        self._remove(self._id)
        for snapshot_id in self._others:
            with contextlib.suppress(GpusnapError):
                if read_marker(self._store, snapshot_id) == self._marker:
                    self._remove(snapshot_id)

    def _remove(self, snapshot_id: str) -> None:
        # Credentials may not permit it; a marker that stays costs others a listing, and nothing else.
        with contextlib.suppress(GpusnapError):
            self._store.delete(keys.running(snapshot_id))


def read_marker(store: Store, snapshot_id: str) -> Marker:
    """Returns the marker of a snapshot.

    Raises:
        DataLossError: it is damaged.
        GpusnapError: it cannot be read.
    """
    key = keys.running(snapshot_id)
    return foreign.decode(store.read(key, 0, MARKER_SIZE), _decoder, f"{store.location}/{key}")
