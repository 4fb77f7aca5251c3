"""How chunks are moved: one interface, implemented by each transfer engine.

An engine owns a budget of local bytes for objects on their way. Asking it for room blocks while the budget is used
up, and that is the backpressure of a whole pipeline.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

import msgspec

from agent.config.model import TransferConfig
from agent.errors import GpusnapError
from agent.storage.loan import Lent
from agent.storage.source import Source


class TransferReport(msgspec.Struct, frozen=True):
    """One finished transfer: bytes moved, seconds it took, how often it was tried, and the engine that moved it."""

    stored_bytes: int
    seconds: float
    attempts: int
    engine: str


class Share(msgspec.Struct, frozen=True):
    """What an engine may use at once: bytes of objects on their way, and connections to the store."""

    bytes: int
    connections: int

    @classmethod
    def whole(cls, transfer: TransferConfig) -> Share:
        """Returns all that is configured."""
        return cls(transfer.staging_size, transfer.connections)

    @classmethod
    def half(cls, transfer: TransferConfig) -> Share:
        """Returns what each of two engines may use; the configuration allows two connections at least."""
        return cls(transfer.staging_size // 2, transfer.connections // 2)


class Place(msgspec.Struct, frozen=True):
    """Where bytes are: in a file or shared memory, at ``offset`` (a multiple of the page size), ``size`` bytes."""

    fd: int
    offset: int
    size: int


class Outgoing(Protocol):
    """Room for one object that is about to be uploaded: written by one thread, then handed to ``upload``."""

    def write(self, data: bytes | memoryview) -> None:
        """Appends to the object; ``data`` may be used again afterwards.

        Raises:
            NoSpaceError, StagingFullError, LocalIoError: there is no room for it, or its disk fails.
        """
        ...

    @property
    def place(self) -> Place:
        """The room, for another process to write the object into instead; open until ``upload`` or ``release``."""
        ...

    def written_elsewhere(self, size: int) -> None:
        """Says that another process has written the whole object into ``place``, which has ``size`` bytes."""
        ...

    def failure(self, error: OSError) -> GpusnapError:
        """Returns what ``write`` would have raised, for the error that another process met."""
        ...

    def release(self) -> None:
        """Gives the room back without uploading. Further calls do nothing."""
        ...


class Incoming(Protocol):
    """One downloaded object, to be read and then released."""

    @property
    def view(self) -> memoryview:
        """The stored bytes, valid until ``release``. They must not be changed."""
        ...

    @property
    def place(self) -> Place:
        """Where the stored bytes are, for another process; its descriptor is open until ``release``."""
        ...

    @property
    def report(self) -> TransferReport:
        """How it came."""
        ...

    def release(self) -> None:
        """Gives the room back: neither ``view`` nor ``place`` may be used any more. Further calls do nothing."""
        ...


class SourceUploads(Protocol):
    """Uploads without room, where an engine has more connections than its room can keep busy. For any thread."""

    def are_preferred(self, size: int) -> bool:
        """Blocks until there is room for an object, and says no; or until it is better sent without, and says yes.

        Raises:
            CancelledError: the engine was aborted.
        """
        ...

    def would_help(self, size: int) -> bool:
        """Says whether another object would get through sooner without room than if it waited for some."""
        ...

    def upload(self, source: Source, key: str) -> Future[TransferReport]:
        """Uploads what a source gives, and closes it; done once the store has confirmed the object.

        The future fails as those of ``TransferEngine``, and with SourceLostError.
        """
        ...


class Loans(Protocol):
    """Connections for other processes, which then receive objects where they are needed. For any thread."""

    @property
    def are_given(self) -> bool:
        """Whether connections are lent: as long as one alone brings enough."""
        ...

    def lend(self, key: str, size: int) -> Lent | None:
        """Lends a connection for an object of ``size`` bytes, blocking until one is free; ``None`` if none is lent.

        Raises:
            CancelledError: the engine was aborted.
        """
        ...


class TransferEngine(Protocol):
    """Moves chunks between this machine and a store. All methods may be called from any thread.

    Futures fail with ObjectNotFoundError, StorageAccessDeniedError, BucketNotFoundError, StorageUnavailableError (the
    store failed for longer than the retries last), OutOfMemoryError, NoSpaceError or StagingFullError (no room in
    memory or in the staging folder), EngineUnavailableError, or CancelledError (``abort`` was called).
    """

    @property
    def name(self) -> str:
        """The engine's name: "s5cmd", "stream", "directory"."""
        ...

    @property
    def sources(self) -> SourceUploads | None:
        """Uploads that take no room, where the engine can do without."""
        ...

    @property
    def loans(self) -> Loans | None:
        """Connections for other processes, where the engine can lend some."""
        ...

    def outgoing(self, size: int) -> Outgoing:
        """Returns room for an object of at most ``size`` bytes; blocks while the budget is used up.

        Raises:
            CancelledError: ``abort`` was called meanwhile.
            OutOfMemoryError, NoSpaceError, StagingFullError: it cannot be held even when nothing else is there.
        """
        ...

    def upload(self, outgoing: Outgoing, key: str) -> Future[TransferReport]:
        """Uploads what was written; done once the store has confirmed the object.

        Releases ``outgoing`` in any case but one: if it fails with EngineUnavailableError, another engine may still
        take what was written, and the caller releases it.
        """
        ...

    def download(self, key: str, size: int) -> Future[Incoming]:
        """Fetches an object of ``size`` stored bytes; blocks while the budget is used up, raising as ``outgoing``.

        The caller releases the result. An object that turns out to have another size is delivered too, and its report
        has that size; of one that is longer, ``view`` may hold only the beginning, yet more than ``size`` bytes.
        """
        ...

    def close(self) -> None:
        """Waits for what is running and ends the engine's processes and threads."""
        ...

    def abort(self) -> None:
        """Ends everything at once (processes are killed and reaped), fails what waits, and removes staged files."""
        ...


class WidenableEngine(TransferEngine, Protocol):
    """An engine that can begin with a part of what is configured, and tells how far it is."""

    @property
    def bytes_moved(self) -> int:
        """Bytes moved so far, those of unfinished objects among them, as near as it can tell."""
        ...

    @property
    def processor_seconds(self) -> float:
        """How long this process was on a processor for it; its children are not counted."""
        ...

    @property
    def capacity(self) -> int:
        """Bytes that it can hold at once, which may be less than its share."""
        ...

    def widen(self, share: Share) -> None:
        """Allows more from now on; never less than before."""
        ...
