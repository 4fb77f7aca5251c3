"""Keeps an operation's error small enough for one gRPC message and for the journal."""

from __future__ import annotations

import msgspec

from agent.errors import DamagedChunk, DamagedSnapshot, ErrorInfo

DAMAGED_BYTES = 1 << 20
"""Bytes of paths and problems in the damaged chunks of an error at most; gRPC's default limit is 4 MiB a message."""

ITEM_BYTES = 8
"""What a path costs in a message besides its own bytes, at most."""

TEXT_LENGTH = 4096
"""Characters of a message or hint at most."""


def bounded_error(error: ErrorInfo) -> ErrorInfo:
    """Returns ``error`` with its texts cut, and without the damaged paths and chunks beyond ``DAMAGED_BYTES``."""
    damaged: list[DamagedChunk] = []
    left = DAMAGED_BYTES
    for chunk in error.damaged:
        left -= len(chunk.chunk_id) + len(chunk.problem)
        paths: list[bytes] = []
        for path in chunk.paths:
            left -= len(path) + ITEM_BYTES
            if left < 0:
                break
            paths.append(path)
        if left < 0 and not paths:
            break
        snapshots: list[DamagedSnapshot] = []
        for snapshot in chunk.snapshots:
            left -= len(snapshot.snapshot_id) + sum(len(path) + ITEM_BYTES for path in snapshot.paths)
            if left < 0:
                break
            snapshots.append(snapshot)
        damaged.append(msgspec.structs.replace(chunk, paths=tuple(paths), snapshots=tuple(snapshots)))
    return msgspec.structs.replace(
        error, message=error.message[:TEXT_LENGTH], hint=error.hint[:TEXT_LENGTH], damaged=tuple(damaged)
    )
