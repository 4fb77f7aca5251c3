"""What people are told of maintenance."""

from __future__ import annotations

from controller_client.cli.maintained import pruned
from controller_client.model import OperationResult
from controller_client.reports import Garbage, PruneReport


def told(early: Garbage) -> str:
    report = PruneReport(True, 86400, 1, 2, held=Garbage(3, 700), minimum_storage_days=90, early=early)
    return pruned(OperationResult(""), report)


def test_a_prune_says_what_the_provider_charges_all_the_same() -> None:
    assert "90 days" not in told(Garbage())
    said = "300 B in 2 chunks of all that may go before the 90 days that the provider charges anyway"
    assert said in told(Garbage(2, 300))
