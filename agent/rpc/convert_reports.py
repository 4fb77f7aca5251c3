"""What maintenance found and did, as messages of the service. Pure."""

from __future__ import annotations

from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent import events
from agent.rpc.text import shown, text_path


def verify_report(value: events.VerifyReport) -> pb.VerifyReport:
    """Returns what a verification found in order."""
    return pb.VerifyReport(
        full=value.full, snapshots=value.snapshots, chunks=value.chunks, stored_bytes=value.stored_bytes
    )


def prune_report(value: events.PruneReport) -> pb.PruneReport:
    """Returns what a prune did."""
    return pb.PruneReport(
        dry_run=value.dry_run,
        grace_seconds=value.grace_seconds,
        kept=value.kept,
        removed=value.removed,
        verdicts=[_verdict(verdict) for verdict in value.verdicts],
        freed=_garbage(value.freed),
        condemned=_garbage(value.condemned),
        held=_garbage(value.held),
        litter=value.litter,
        minimum_storage_days=value.minimum_storage_days,
        early=_garbage(value.early),
    )


def _verdict(value: events.SnapshotVerdict) -> pb.SnapshotVerdict:
    return pb.SnapshotVerdict(
        snapshot_id=value.snapshot_id,
        host=shown(value.host),
        workspace=text_path(value.workspace),
        reasons=value.reasons,
    )


def _garbage(value: events.Garbage) -> pb.Garbage:
    return pb.Garbage(chunks=value.chunks, bytes=value.bytes)
