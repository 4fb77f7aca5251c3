"""The names of a repository's objects, relative to its prefix."""

from __future__ import annotations

import re
import secrets
import time

REPOSITORY = "repository.json"
SNAPSHOTS = "snapshots/"
CHUNKS = "chunks/"
RUNNING = "running/"
TRASH = "trash/"
BENCHMARK = "benchmark/"

_CHUNK = re.compile(r"chunks/([0-9a-f]{2})/([0-9a-f]{64})")
_SNAPSHOT_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")


def chunk(chunk_id: bytes) -> str:
    """Returns the key of a chunk (32 bytes of id)."""
    name = chunk_id.hex()
    return f"{CHUNKS}{name[:2]}/{name}"


def chunk_id(key: str) -> bytes | None:
    """Returns the id of the chunk with this key; ``None`` if it is no chunk's."""
    match = _CHUNK.fullmatch(key)
    return bytes.fromhex(match[2]) if match and match[2].startswith(match[1]) else None


def running(snapshot_id: str) -> str:
    """Returns the key of the marker of a snapshot that is being made."""
    return f"{RUNNING}{snapshot_id}"


def manifest(snapshot_id: str) -> str:
    """Returns the key of a snapshot's manifest."""
    return f"{SNAPSHOTS}{snapshot_id}/manifest"


def tombstone(snapshot_id: str) -> str:
    """Returns the key of the manifest of a deleted snapshot."""
    return f"{TRASH}{snapshot_id}/manifest"


def chunk_list(snapshot_id: str) -> str:
    """Returns the key of the list of a snapshot's chunk keys."""
    return f"{SNAPSHOTS}{snapshot_id}/chunks.txt"


def new_snapshot_id(start_ns: int) -> str:
    """Returns an id for a snapshot that began then (epoch ns); ids of later snapshots are greater, as text."""
    second, nanos = divmod(start_ns, 10**9)
    fraction = nanos * 0x100000 // 10**9
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(second))}-{fraction:05x}{secrets.randbelow(0x1000):03x}"


def is_snapshot_id(text: str) -> bool:
    """Says whether ``text`` has the form of a snapshot id, such as 20261123T110512Z-4f2a9c01."""
    return _SNAPSHOT_ID.fullmatch(text) is not None
