"""What the process of an operation gets."""

from __future__ import annotations

from agent.maintenance.request import PruneRequest, VerifyRequest
from agent.restore.request import RestoreRequest
from agent.snapshot.request import SnapshotRequest

Request = SnapshotRequest | RestoreRequest | VerifyRequest | PruneRequest
"""Everything that an operation's process needs, checked by the daemon."""
