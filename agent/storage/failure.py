"""What can go wrong with one object in an S3 store, told from a code, a status or a text."""

from __future__ import annotations

import enum

import msgspec

from agent.errors import (
    BucketNotFoundError,
    GpusnapError,
    LocalIoError,
    NoSpaceError,
    ObjectNotFoundError,
    StorageAccessDeniedError,
    StorageUnavailableError,
)


class FailureKind(enum.Enum):
    """The classes of failure; only ``UNAVAILABLE`` is worth another try."""

    OBJECT_NOT_FOUND = "object not found"
    BUCKET_NOT_FOUND = "bucket not found"
    ACCESS_DENIED = "access denied"
    NO_SPACE = "no space"
    LOCAL = "local"
    UNAVAILABLE = "unavailable"


_CODES: dict[str, FailureKind] = {
    **dict.fromkeys(("NoSuchKey", "NotFound"), FailureKind.OBJECT_NOT_FOUND),
    **dict.fromkeys(
        (
            "NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed",
            "BucketRegionError", "IllegalLocationConstraintException", "TemporaryRedirect",
        ),
        FailureKind.BUCKET_NOT_FOUND,
    ),
    **dict.fromkeys(
        (
            "AccessDenied", "AccountProblem", "AllAccessDisabled", "ExpiredToken", "ExpiredTokenException", "Forbidden",
            "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken", "NoCredentialProviders", "NotSignedUp",
            "RequestTimeTooSkewed", "SharedConfigProfileNotExistsError", "SignatureDoesNotMatch",
            "TokenRefreshRequired", "Unauthorized", "UnauthorizedAccess",
        ),
        FailureKind.ACCESS_DENIED,
    ),
    **dict.fromkeys(
        (
            "BadDigest", "IncompleteBody", "InternalError", "OperationAborted", "RequestCanceled", "RequestError",
            "RequestTimeout", "SerializationError", "ServiceUnavailable", "SlowDown", "Throttling",
            "ThrottlingException", "TooManyRequests",
        ),
        FailureKind.UNAVAILABLE,
    ),
}  # fmt: skip

_STATUSES = {
    **dict.fromkeys((301, 302, 307, 308), FailureKind.BUCKET_NOT_FOUND),
    401: FailureKind.ACCESS_DENIED,
    403: FailureKind.ACCESS_DENIED,
    404: FailureKind.OBJECT_NOT_FOUND,
}

_HINTS = {
    "AuthorizationHeaderMalformed": "set [storage] region to the bucket's region",
    "BucketRegionError": "set [storage] region to the bucket's region",
    "ExpiredToken": "give fresh credentials",
    "ExpiredTokenException": "give fresh credentials",
    "NoCredentialProviders": "give an access key and a secret, a profile, or an instance role",
    "PermanentRedirect": "set [storage] region to the bucket's region",
    "RequestTimeTooSkewed": "set this machine's clock",
    "TemporaryRedirect": "set [storage] region to the bucket's region; a new bucket takes a while to be reached",
}


class Failure(msgspec.Struct, frozen=True):
    """One failed action: its class, the store's code if there was one, and the text to show."""

    kind: FailureKind
    text: str
    code: str = ""


def broken(error: Exception) -> Failure:
    """Returns the failure of a connection that broke, or that the store left silent for too long."""
    if isinstance(error, TimeoutError):
        return Failure(FailureKind.UNAVAILABLE, "the store stopped answering")
    reason = error.strerror if isinstance(error, OSError) else None
    return Failure(FailureKind.UNAVAILABLE, reason or str(error) or type(error).__name__)


def kind_of(code: str, status: int = 0) -> FailureKind | None:
    """Returns the class of an S3 error code or, if the code is unknown, of an HTTP status; ``None`` if both are."""
    return _CODES.get(code) or _STATUSES.get(status)


def to_error(failure: Failure, location: str, key: str) -> GpusnapError:
    """Returns the error of the hierarchy for a failure about the object ``key`` (empty: the bucket) at ``location``."""
    thing = f"{location}: object {key}" if key else location
    message = f"{thing}: {failure.text}"
    hint = _HINTS.get(failure.code, "")
    if failure.kind is FailureKind.OBJECT_NOT_FOUND:
        return ObjectNotFoundError(f"{thing} does not exist", hint=hint)
    if failure.kind is FailureKind.BUCKET_NOT_FOUND:
        return BucketNotFoundError(message, hint=hint)
    if failure.kind is FailureKind.ACCESS_DENIED:
        return StorageAccessDeniedError(message, hint=hint)
    if failure.kind is FailureKind.NO_SPACE:
        return NoSpaceError(message, hint=hint)
    if failure.kind is FailureKind.LOCAL:
        return LocalIoError(message, hint=hint)
    return StorageUnavailableError(message, hint=hint)
