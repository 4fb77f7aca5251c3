"""What the process of an operation gets."""

from __future__ import annotations

from agent.maintenance.request import BenchmarkRequest, PruneRequest, VerifyRequest
from agent.restore.request import RestoreRequest
from agent.snapshot.request import SnapshotRequest

Request = SnapshotRequest | RestoreRequest | VerifyRequest | PruneRequest | BenchmarkRequest
"""Everything that an operation's process needs, checked by the daemon."""
