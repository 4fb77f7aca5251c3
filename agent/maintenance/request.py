"""What the maintenance of a repository, and of what is known about its store, is asked to do."""

from __future__ import annotations

import msgspec

from agent.config.model import StorageConfig, TransferConfig
from agent.events import Measurement
from agent.maintenance.retention import Rules


class PruneRequest(msgspec.Struct, frozen=True, tag="prune"):
    """Everything the process of a prune needs, checked by the daemon.

    Attributes:
        rules: which snapshots stay.
        hosts, workspaces: the groups that the rules are for; empty for all.
        dry_run: only say what would be done.
        staging_dir: a folder of this operation's own; the daemon removes it afterwards.
    """

    rules: Rules
    hosts: tuple[str, ...]
    workspaces: tuple[bytes, ...]
    dry_run: bool
    staging_dir: str
    storage: StorageConfig
    transfer: TransferConfig = TransferConfig()


class VerifyRequest(msgspec.Struct, frozen=True, tag="verify"):
    """Everything the process of a verification needs, checked by the daemon.

    Attributes:
        snapshot: the snapshot's id, a unique prefix of it, or "latest"; empty for all snapshots.
        full: read every chunk and hash it; otherwise only look whether it is there with its size.
        bytes_per_second: stored bytes that are read at most; 0 for as fast as it goes.
        staging_dir: a folder of this operation's own; the daemon removes it afterwards.
        measurements: what is known of the transfer engines with this storage.
    """

    snapshot: str
    full: bool
    bytes_per_second: int
    staging_dir: str
    storage: StorageConfig
    transfer: TransferConfig = TransferConfig()
    measurements: tuple[Measurement, ...] = ()


class BenchmarkRequest(msgspec.Struct, frozen=True, tag="benchmark"):
    """Everything the process of a benchmark needs, checked by the daemon.

    Attributes:
        operation: the operation's name, which is part of its objects' keys.
        bytes: what each engine moves in each direction and round; at least one object.
        object_bytes: the size of each object.
        rounds: how often all of it is done.
        earlier: benchmarks of this agent that have ended; what those that were killed left is removed.
        staging_dir: a folder of this operation's own; the daemon removes it afterwards.
    """

    operation: str
    bytes: int
    object_bytes: int
    rounds: int
    staging_dir: str
    storage: StorageConfig
    transfer: TransferConfig = TransferConfig()
    earlier: tuple[str, ...] = ()
