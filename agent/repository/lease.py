"""What a snapshot relies on, and until when: FORMAT.md, "Pruning", has the rules and why they suffice."""

from __future__ import annotations

import msgspec

from agent.repository import condemned
from agent.repository.grace import Grace
from agent.storage.store import Deadline, Store


class Lease(msgspec.Struct, frozen=True):
    """The right to rely on chunks that are in the repository now.

    Attributes:
        deadline: the manifest must be stored by then, or another lease is needed.
        condemned: chunks that prunes may delete meanwhile, and since when they are condemned. One of them counts only
            if it was uploaded under this lease, and either before ``grace`` had passed since then, or if it was found
            in the store ``Grace.settle`` seconds later.
    """

    deadline: Deadline
    condemned: dict[bytes, int]


def take_lease(store: Store, grace: Grace, now: int) -> Lease:
    """Returns a lease. What is relied on must be found in the store, or uploaded, after this call.

    Args:
        now: the store's clock, read before this call.

    Raises:
        DataLossError: a record of condemned chunks is damaged.
        GpusnapError: the store cannot be read and written.
    """
    return Lease(Deadline(now, grace.lease), condemned.read_all(store, now, grace))
