"""What a snapshot is asked to do."""

from __future__ import annotations

import msgspec

from agent.config.model import ScanConfig, StorageConfig, TransferConfig
from agent.events import Measurement


class SnapshotRequest(msgspec.Struct, frozen=True, tag="snapshot"):
    """Everything the process of a snapshot needs, checked by the daemon.

    Attributes:
        workspace: the absolute path of the workspace, without symbolic links.
        staging_dir: a folder of this operation's own; the daemon removes it afterwards.
        exclude: gitignore patterns of what to leave out.
        include: gitignore patterns of what to keep; empty for everything.
        exclude_caches: leave out caches that can be downloaded again.
        one_file_system: do not descend into other file systems.
        full: read every file, also those that have not changed since the parent.
        former: the snapshot that an earlier run of this operation made and may have committed; empty if none.
        measurements: what is known of the transfer engines with this storage.
    """

    workspace: bytes
    staging_dir: str
    storage: StorageConfig
    transfer: TransferConfig = TransferConfig()
    scan: ScanConfig = ScanConfig()
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude_caches: bool = False
    one_file_system: bool = False
    full: bool = False
    former: str = ""
    measurements: tuple[Measurement, ...] = ()
