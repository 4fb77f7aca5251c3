"""How chunks are moved: one interface, implemented by each transfer engine.

An engine owns a budget of local bytes for objects on their way. Asking it for room blocks while the budget is used
up, and that is the backpressure of a whole pipeline.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

import msgspec


class TransferReport(msgspec.Struct, frozen=True):
    """One finished transfer: bytes moved, seconds it took, and how often it was tried."""

    stored_bytes: int
    seconds: float
    attempts: int


class OutgoingFile(Protocol):
    """Room for one object that is about to be uploaded. The caller writes ``path`` and hands it to ``upload``."""

    @property
    def path(self) -> str:
        """The file to write; it exists and is empty."""
        ...

    def release(self) -> None:
        """Gives the room back without uploading and removes the file. Further calls do nothing."""
        ...


class IncomingFile(Protocol):
    """One downloaded object as a local file, to be read and then released."""

    @property
    def path(self) -> str:
        """The file to read. It must not be changed: for some engines it is the store's own."""
        ...

    @property
    def report(self) -> TransferReport:
        """How it came."""
        ...

    def release(self) -> None:
        """Gives the room back. Further calls do nothing."""
        ...


class TransferEngine(Protocol):
    """Moves chunks between local files and a store. All methods may be called from any thread.

    Futures fail with ObjectNotFoundError, StorageAccessDeniedError, BucketNotFoundError, StorageUnavailableError (the
    store failed for longer than the retries last), NoSpaceError or StagingFullError (no room in the staging folder),
    EngineUnavailableError, or CancelledError (``abort`` was called).
    """

    @property
    def name(self) -> str:
        """The engine's name: "s5cmd", "directory"."""
        ...

    def outgoing(self, size: int) -> OutgoingFile:
        """Returns room for an object of at most ``size`` bytes; blocks while the budget is used up.

        Raises:
            CancelledError: ``abort`` was called meanwhile.
            StagingFullError: the staging folder cannot hold it even when nothing else is there.
        """
        ...

    def upload(self, file: OutgoingFile, key: str) -> Future[TransferReport]:
        """Uploads what was written; done once the store has confirmed the object. Releases ``file`` in any case."""
        ...

    def download(self, key: str, size: int) -> Future[IncomingFile]:
        """Fetches an object of ``size`` stored bytes; blocks while the budget is used up, raising as ``outgoing``.

        The caller releases the result. An object that turns out to have another size is delivered as it is.
        """
        ...

    def close(self) -> None:
        """Waits for what is running and ends the engine's processes and threads."""
        ...

    def abort(self) -> None:
        """Ends everything at once (processes are killed and reaped), fails what waits, and removes staged files."""
        ...
