"""What a restore is asked to do."""

from __future__ import annotations

import enum

import msgspec

from agent.config.model import StorageConfig, TransferConfig
from agent.events import Measurement


class IfNotEmpty(enum.Enum):
    """What to do when the target is not empty."""

    FAIL = "fail"
    OVERWRITE = "overwrite"
    MIRROR = "mirror"


class RestoreRequest(msgspec.Struct, frozen=True, tag="restore"):
    """Everything the process of a restore needs, checked by the daemon.

    Attributes:
        operation: the operation's name; it marks the temporary files in the target.
        snapshot: the snapshot's id, a unique prefix of it, or "latest".
        target: the absolute path to restore into, without symbolic links; made when missing.
        staging_dir: a folder of this operation's own; the daemon removes it afterwards.
        if_not_empty: what to do when the target is not empty.
        paths: paths to restore, relative to the workspace; empty for everything.
        checksum: compare the content of what is in the target, instead of trusting size and time.
        resume: an earlier run of the operation has begun to write this very snapshot: what the target holds is its own.
        measurements: what is known of the transfer engines with this storage.
    """

    operation: str
    snapshot: str
    target: bytes
    staging_dir: str
    storage: StorageConfig
    transfer: TransferConfig = TransferConfig()
    if_not_empty: IfNotEmpty = IfNotEmpty.FAIL
    paths: tuple[bytes, ...] = ()
    checksum: bool = False
    resume: bool = False
    measurements: tuple[Measurement, ...] = ()
