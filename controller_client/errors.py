"""Every error of the client, in one hierarchy: the inverse of the agent's table.

A class names one kind of failure by its stable ``reason``. An error that the agent reported carries its own message,
hint and metadata; ``from_reason`` and ``from_failure`` find the class. A reason that this version does not know
becomes a plain ``GpusnapError`` with that reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller_client.model import Completed, DamagedChunk, Failure, OperationState


class GpusnapError(Exception):
    """The root of the hierarchy.

    Attributes:
        reason: the stable name of the kind of failure, such as "SNAPSHOT_NOT_FOUND".
        message: one line naming the thing and what was wrong with it.
        hint: one line saying what to do; may be empty.
        retryable: whether the same request may succeed later.
        metadata: further facts for programs, such as the name of the operation that is in the way.
    """

    default_reason = "INTERNAL"
    default_retryable = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        reason: str = "",
        retryable: bool | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason = reason or self.default_reason
        self.retryable = self.default_retryable if retryable is None else retryable
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class AddressError(GpusnapError, ValueError):
    """The address of an agent is malformed. Raised by the client itself."""

    default_reason = "ADDRESS_INVALID"


class AgentUnreachableError(GpusnapError):
    """The agent did not answer, or the connection was lost for too long. Raised by the client itself."""

    default_reason = "AGENT_UNREACHABLE"
    default_retryable = True


class NotSupportedByAgentError(GpusnapError):
    """The agent does not know the call: it is older than the client. Raised by the client itself."""

    default_reason = "NOT_SUPPORTED_BY_AGENT"


class InvalidRequestError(GpusnapError):
    """A field of a request is missing or malformed."""

    default_reason = "INVALID_REQUEST"


class ConfigError(GpusnapError):
    """A configured value of the agent is not allowed."""

    default_reason = "CONFIG_INVALID"


class PageTokenError(GpusnapError):
    """A page token was not made by the same listing."""

    default_reason = "PAGE_TOKEN_INVALID"


class PathNotAllowedError(GpusnapError):
    """A path lies outside the agent's workspace roots."""

    default_reason = "PATH_NOT_ALLOWED"


class PathNotFoundError(GpusnapError):
    """A path on the agent's machine does not exist."""

    default_reason = "PATH_NOT_FOUND"


class NotADirectoryPathError(GpusnapError):
    """A path that must be a directory is something else."""

    default_reason = "NOT_A_DIRECTORY"


class TargetNotEmptyError(GpusnapError):
    """A restore's target holds something, and the request did not say what to do then."""

    default_reason = "TARGET_NOT_EMPTY"


class LocalPermissionError(GpusnapError):
    """The agent may not read or write a path on its machine."""

    default_reason = "LOCAL_PERMISSION_DENIED"


class LocalIoError(GpusnapError):
    """Reading or writing a file on the agent's machine failed."""

    default_reason = "LOCAL_IO"


class NoSpaceError(GpusnapError):
    """A file system on the agent's machine is full."""

    default_reason = "NO_SPACE"
    default_retryable = True


class StagingFullError(NoSpaceError):
    """The agent's staging folder cannot hold even one chunk."""

    default_reason = "STAGING_FULL"


class OutOfMemoryError(GpusnapError):
    """The agent's machine, or a limit for the agent, gives no more memory."""

    default_reason = "OUT_OF_MEMORY"
    default_retryable = True


class StorageNotConfiguredError(GpusnapError):
    """The request named no storage, and the agent has none configured."""

    default_reason = "STORAGE_NOT_CONFIGURED"


class StorageNotPermittedError(GpusnapError):
    """The agent's configuration forbids or demands that requests name their storage."""

    default_reason = "STORAGE_NOT_PERMITTED"


class StorageAccessDeniedError(GpusnapError):
    """The store refused the credentials or the action."""

    default_reason = "STORAGE_ACCESS_DENIED"


class BucketNotFoundError(GpusnapError):
    """The bucket (or the folder of a local store) does not exist."""

    default_reason = "BUCKET_NOT_FOUND"


class StorageUnavailableError(GpusnapError):
    """The store could not be reached, or failed for longer than the agent's retries last."""

    default_reason = "STORAGE_UNAVAILABLE"
    default_retryable = True


class ObjectNotFoundError(GpusnapError):
    """An object is not in the store."""

    default_reason = "OBJECT_NOT_FOUND"


class EngineUnavailableError(GpusnapError):
    """The program of a transfer engine is missing, too old or does not run."""

    default_reason = "ENGINE_UNAVAILABLE"


class RepositoryVersionError(GpusnapError):
    """The repository was written in a format that the agent does not know."""

    default_reason = "REPOSITORY_VERSION_UNSUPPORTED"


class SnapshotNotFoundError(GpusnapError):
    """No snapshot has this id or prefix."""

    default_reason = "SNAPSHOT_NOT_FOUND"


class SnapshotAmbiguousError(GpusnapError):
    """More than one snapshot has this prefix."""

    default_reason = "SNAPSHOT_AMBIGUOUS"


class DataLossError(GpusnapError):
    """Stored bytes are missing or not what was stored; ``damaged`` names the first 100 chunks and their files."""

    default_reason = "DATA_LOSS"
    damaged: tuple[DamagedChunk, ...] = ()


class OperationNotFoundError(GpusnapError):
    """No operation has this name."""

    default_reason = "OPERATION_NOT_FOUND"


class RequestIdReusedError(GpusnapError):
    """A request id came back with another request."""

    default_reason = "REQUEST_ID_REUSED"


class WorkspaceBusyError(GpusnapError):
    """Another operation holds the workspace; ``metadata["operation"]`` names it."""

    default_reason = "WORKSPACE_BUSY"
    default_retryable = True


class CancelledError(GpusnapError):
    """The operation was cancelled on request."""

    default_reason = "CANCELLED"


class WorkerCrashedError(GpusnapError):
    """The process of an operation died."""

    default_reason = "WORKER_CRASHED"
    default_retryable = True


class CredentialsNeededError(GpusnapError):
    """The operation was interrupted, and the agent has no credentials to go on with.

    The same request, with its request id and with credentials, continues it; the hint names the id.
    """

    default_reason = "CREDENTIALS_NEEDED"
    default_retryable = True


class JournalError(GpusnapError):
    """The agent's journal of operations cannot be used."""

    default_reason = "JOURNAL_UNUSABLE"


class DeadlinePassedError(GpusnapError):
    """The store refused a request because its time was over: the operation was held up for too long."""

    default_reason = "DEADLINE_PASSED"
    default_retryable = True


class DeadlinesIgnoredError(GpusnapError):
    """The store carries out requests whose time is over, so that nothing can be pruned safely."""

    default_reason = "DEADLINES_IGNORED"


class TooManyRequestsError(GpusnapError):
    """More requests wait for the store than the agent holds."""

    default_reason = "TOO_MANY_REQUESTS"
    default_retryable = True


class ShuttingDownError(GpusnapError):
    """The agent drains and takes no new work."""

    default_reason = "SHUTTING_DOWN"
    default_retryable = True


def _classes() -> dict[str, type[GpusnapError]]:
    found: dict[str, type[GpusnapError]] = {}
    pending: list[type[GpusnapError]] = [GpusnapError]
    while pending:
        cls = pending.pop()
        found[cls.default_reason] = cls
        pending.extend(cls.__subclasses__())
    return found


CLASSES = _classes()
"""Every class of the hierarchy by its reason."""


def from_reason(
    reason: str,
    message: str,
    *,
    hint: str = "",
    retryable: bool | None = None,
    metadata: Mapping[str, str] | None = None,
) -> GpusnapError:
    """Returns the exception for a reason that the agent gave."""
    cls = CLASSES.get(reason, GpusnapError)
    return cls(message, hint=hint, reason=reason, retryable=retryable, metadata=metadata)


def from_failure(failure: Failure) -> GpusnapError:
    """Returns the exception for the error of an ended operation or of a step of a check."""
    error = from_reason(failure.reason, failure.message, hint=failure.hint, retryable=failure.retryable)
    if isinstance(error, DataLossError):
        error.damaged = failure.damaged
    return error


def from_completed(completed: Completed, name: str) -> GpusnapError | None:
    """Returns the exception for how an operation ended; ``None`` if it ended well."""
    if completed.error is not None:
        return from_failure(completed.error)
    if completed.state is OperationState.CANCELLED:
        return CancelledError(f"operation {name}: cancelled", hint="start it again to continue")
    if completed.state is not OperationState.SUCCEEDED or completed.result is None:
        return GpusnapError(f"operation {name}: {completed.state.value} without saying more")
    return None
