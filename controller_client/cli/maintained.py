"""What maintenance found and did, for people."""

from __future__ import annotations

from collections.abc import Iterator

from controller_client.cli import units
from controller_client.cli.columns import columns
from controller_client.model import OperationResult
from controller_client.names import show_text
from controller_client.reports import Garbage, PruneReport, VerifyReport


def verified(result: OperationResult, report: VerifyReport) -> str:
    """Returns what a verification found in order, in one line."""
    what = f"{units.count(report.snapshots, 'snapshot')}, {units.count(report.chunks, 'chunk')}"
    size, took = units.size(report.stored_bytes), units.duration(result.seconds)
    speed = f" ({units.rate(report.stored_bytes / result.seconds)})" if report.full and result.seconds > 0 else ""
    parts = [f"{what}, {size} {'read and compared' if report.full else 'there'} in {took}{speed}"]
    parts += [units.count(result.warnings, "warning")] if result.warnings else ["nothing is missing"]
    return "; ".join(parts)


def prune_lines(report: PruneReport) -> Iterator[str]:
    """Yields a table of the snapshots, with what becomes of each and why."""
    if not report.removed:
        return
    goes = "would go" if report.dry_run else "gone"
    rows = [
        (
            item.snapshot_id,
            show_text(item.host),
            show_text(item.workspace),
            f"stays: {', '.join(map(show_text, item.reasons))}" if item.stays else goes,
        )
        for item in report.verdicts
    ]
    yield from columns(("ID", "HOST", "WORKSPACE", "VERDICT"), rows)
    more = report.kept + report.removed - len(rows)
    if more:
        yield f"and {units.count(more, 'snapshot')} more"


def pruned(result: OperationResult, report: PruneReport) -> str:
    """Returns what a prune did, in one line."""
    would = "would be " if report.dry_run else ""
    grace = units.duration(report.grace_seconds)
    parts = [
        f"{units.count(report.removed, 'snapshot')} {would}deleted, {report.kept:,} stay",
        f"{_garbage(report.freed)} {would}freed now",
    ]
    if report.condemned.chunks:
        parts.append(f"{_garbage(report.condemned)} more by a prune after {grace}")
    if report.held.chunks:
        parts.append(f"{_garbage(report.held)} by one after that, as only deleted snapshots need them")
    if report.litter:
        parts.append(f"{units.count(report.litter, 'leftover')} {would}removed")
    if report.early.chunks:
        days = report.minimum_storage_days
        parts.append(
            f"{_garbage(report.early)} of all that may go before the {days} days that the provider charges anyway"
        )
    if result.warnings:
        parts.append(units.count(result.warnings, "warning"))
    return "; ".join(parts)


def _garbage(garbage: Garbage) -> str:
    return f"{units.size(garbage.bytes)} in {units.count(garbage.chunks, 'chunk')}"
