"""The control side's store in an S3 bucket, over botocore."""

from __future__ import annotations

import datetime
import functools
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import botocore.exceptions
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from agent.config.model import StorageConfig
from agent.config.provider import ResolvedStorage
from agent.errors import (
    ConfigError,
    ObjectNotFoundError,
)
from agent.storage.failure import Failure, FailureKind, kind_of, to_error
from agent.storage.keys import check_key, clean_prefix, join
from agent.storage.local import new_local, open_local, size_of, write_local
from agent.storage.retry import RetryPolicy
from agent.storage.s3_deadline import RequestsBefore, demand_refusal, in_time
from agent.storage.session import open_session
from agent.storage.store import Deadline, ObjectInfo

PIECE_BYTES = 1 << 20
"""What a download holds in memory."""

ONE_PUT_BYTES = 64 << 20
"""Up to here a file is one PUT; above it goes in parts of this size."""

UPLOAD_THREADS = 4
CONNECTIONS = 16

RANGE_NOT_SATISFIABLE = 416

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
"""How long a store may take to accept a connection, and to send the next bytes; never longer than the retries last."""

_T = TypeVar("_T")


class S3Store:
    """A repository below a prefix of a bucket.

    Args:
        storage: the bucket, the prefix and the credentials.
        resolved: its endpoint, region and addressing style.
        retry_seconds: how long a store that does not answer is tried.

    Raises:
        ConfigError: the prefix is not allowed.
    """

    def __init__(self, storage: StorageConfig, resolved: ResolvedStorage, retry_seconds: float) -> None:
        self._storage = storage
        self._resolved = resolved
        self._bucket = storage.bucket
        self._prefix = clean_prefix(storage.prefix)
        self._policy = RetryPolicy(retry_seconds)
        self._timed: RequestsBefore | None = None
        self._lock = threading.Lock()
        self._opened: Any = None

    @property
    def location(self) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{join(self._bucket, self._prefix)}".rstrip("/")

    def check(self) -> None:
        """Makes sure that the bucket exists and answers with these credentials."""

        def look() -> None:
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                # A HEAD has no body, and so no code: the same question as a GET says what is wrong.
                if _status(error) not in (400, 401, 403):
                    raise
                self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._full(""), MaxKeys=1)

        try:
            self._try("", look)
        except ObjectNotFoundError as error:
            failure = Failure(FailureKind.BUCKET_NOT_FOUND, "the bucket does not exist")
            raise to_error(failure, self._where, "") from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yields every object whose key begins with ``prefix``, by ascending key."""
        for page in self._pages(Prefix=self._full(prefix)):
            yield from page.objects

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Yields the distinct next components below ``prefix``."""
        full = self._full(prefix)
        for page in self._pages(Prefix=full, Delimiter="/"):
            for folder in page.folders:
                yield folder[len(full) :].rstrip("/")

    def head(self, key: str) -> ObjectInfo:
        """Returns the facts about one object."""
        return cast("ObjectInfo", self._about(key, lambda client, where: _facts(key, client.head_object(**where))))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Returns ``length`` bytes from ``offset``, or all the rest."""
        if length == 0:
            self.head(key)
            return b""
        if offset == 0 and length is None:
            return cast("bytes", self._about(key, lambda client, where: client.get_object(**where)["Body"].read()))
        end = "" if length is None else str(offset + length - 1)
        return self._range(key, f"bytes={offset}-{end}")[0]

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """Returns the last ``length`` bytes and the whole size."""
        if length == 0:
            return b"", self.head(key).size
        data, size = self._range(key, f"bytes=-{length}")
        return data[-length:], size

    def download(self, key: str, path: str) -> None:
        """Writes the object to a new local file; a broken connection is continued where it broke."""
        with new_local(path) as file:
            etag = ""

            def fetch() -> None:
                nonlocal etag
                where = {"Range": f"bytes={file.tell()}-", "IfMatch": etag} if file.tell() else {}
                answer = _get(self._client, Bucket=self._bucket, Key=self._full(check_key(key)), **where)
                if answer is None:
                    # The connection broke after the last byte, or the first answer said a wrong size.
                    self._demand_size(key, file.tell())
                    return
                etag = answer["ETag"]
                while piece := answer["Body"].read(PIECE_BYTES):
                    write_local(file, piece)

            self._try(key, fetch)

    def write(self, key: str, data: bytes) -> None:
        """Stores a small object."""
        self._about(key, lambda client, where: client.put_object(Body=data, **where))

    def upload(self, key: str, path: str) -> None:
        """Stores a local file, above 64 MiB in several parts."""
        if size_of(path) > ONE_PUT_BYTES:
            self._about(key, lambda client, where: _upload_parts(client, path, where))
            return
        with open_local(path) as file:

            def put(client: Any, where: dict[str, str]) -> None:
                file.seek(0)
                client.put_object(Body=file, **where)

            self._about(key, put)

    def upload_before(self, key: str, path: str, deadline: Deadline) -> None:
        """Stores a local file with one request that the store refuses after the deadline."""
        in_time(self, deadline, lambda: self._requests_before.put(key, path, deadline))

    def copy(self, source: str, key: str) -> None:
        """Stores a copy of an object under another key, inside the store."""
        origin = {"Bucket": self._bucket, "Key": self._full(check_key(source))}
        self._about(key, lambda client, where: client.copy_object(CopySource=origin, **where))

    def delete(self, key: str) -> None:
        """Deletes an object; one that does not exist is no error."""
        try:
            self._about(key, lambda client, where: client.delete_object(**where))
        except ObjectNotFoundError:
            pass

    def delete_if_older(self, key: str, than_s: int, deadline: Deadline) -> int | None:
        """Deletes an object that is older; the store refuses that after the deadline, which began before the look."""
        try:
            found = self.head(key)
        except ObjectNotFoundError:
            return None
        if found.modified_s >= than_s:
            return None
        in_time(self, deadline, lambda: self._requests_before.delete(key, deadline))
        return found.size

    def demand_deadlines(self, seconds: int) -> None:
        """Sends requests whose time is over; a store that keeps to deadlines refuses them."""
        demand_refusal(self, self._requests_before)

    def close(self) -> None:
        """Closes the connections."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    @property
    def _requests_before(self) -> RequestsBefore:
        with self._lock:
            if self._timed is None:
                self._timed = RequestsBefore(self._storage, self._resolved, self._policy.seconds)
            return self._timed

    @property
    def _where(self) -> str:
        return f"s3://{self._bucket} at {self._resolved.endpoint_url or 'AWS'}"

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = open_client(self._storage, self._resolved, self._policy.seconds)
            return self._opened

    def _about(self, key: str, action: Callable[[Any, dict[str, str]], Any]) -> Any:
        where = {"Bucket": self._bucket, "Key": self._full(check_key(key))}
        try:
            return self._try(key, lambda: action(self._client, where))
        except ObjectNotFoundError:
            self.check()  # the answer to a HEAD does not say whether the object or the bucket is missing
            raise

    def _range(self, key: str, wanted: str) -> tuple[bytes, int]:
        """Returns a part of an object, and its whole size."""

        def get(client: Any, where: dict[str, str]) -> tuple[bytes, int] | None:
            answer = _get(client, **where, Range=wanted)
            if answer is None:
                return None
            data = cast("bytes", answer["Body"].read())
            total = re.search(r"/(\d{1,18})$", answer.get("ContentRange", ""))
            return data, int(total.group(1)) if total else len(data)

        return cast("tuple[bytes, int] | None", self._about(key, get)) or (b"", self.head(key).size)

    def _demand_size(self, key: str, size: int) -> None:
        actual = self.head(key).size
        if size != actual:
            failure = Failure(FailureKind.UNAVAILABLE, f"it came with {size} bytes, and has {actual}")
            raise to_error(failure, self._where, self._full(key))

    def _pages(self, **options: str) -> Iterator[_Page]:
        token: dict[str, str] = {}
        while True:
            page = self._try("", functools.partial(self._page, {**options, **token}))
            yield page
            if not page.next:
                return
            token = {"ContinuationToken": page.next}

    def _page(self, options: dict[str, str]) -> _Page:
        answer = self._client.list_objects_v2(Bucket=self._bucket, **options)
        # An answer that broke off before its body, or a page for people, would else look like an empty list.
        is_truncated = answer["IsTruncated"]
        skip = len(self._full(""))
        return _Page(
            objects=[
                ObjectInfo(item["Key"][skip:], item["Size"], _epoch_ns(item["LastModified"]))
                for item in answer.get("Contents", ())
                if item["Key"][skip:]  # a marker of the prefix itself is no object of the repository
            ],
            folders=[item["Prefix"] for item in answer.get("CommonPrefixes", ())],
            next=answer["NextContinuationToken"] if is_truncated else "",
        )

    def _try(self, key: str, action: Callable[[], _T]) -> _T:
        def attempt() -> _T:
            with self._errors(key):
                return action()

        return self._policy.call(attempt)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turns what botocore raises into errors of a store that name the bucket, the endpoint and the object."""
        try:
            yield
        except _FOREIGN as error:
            raise to_error(_failure(error), self._where, self._full(key) if key else "") from error
        except _NOT_UNDERSTOOD as error:
            failure = Failure(FailureKind.UNAVAILABLE, f"the store's answer cannot be understood: {error}")
            raise to_error(failure, self._where, self._full(key) if key else "") from error


class _Page(msgspec.Struct, frozen=True):
    """One answer to the question for a list; ``next`` leads to the one after it, "" to none."""

    objects: list[ObjectInfo]
    folders: list[str]
    next: str


_FOREIGN = (BotoCoreError, ClientError, ResponseParserError, HTTPError)

_NOT_UNDERSTOOD = (KeyError, ValueError, TypeError, AttributeError, RecursionError)
"""What botocore and we stumble over when an answer lacks something, has nonsense in its place or leads in a circle."""

_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.TokenRetrievalError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.SSOError,
)


def open_client(storage: StorageConfig, resolved: ResolvedStorage, retry_seconds: float) -> Any:
    """Returns a botocore client for a store; nothing is contacted yet."""
    config = Config(
        region_name=resolved.region or None,
        s3={"addressing_style": "path" if resolved.path_style else "auto"},
        ignore_configured_endpoint_urls=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Half of the time at most, so that a store which is silent leaves time for another try.
        connect_timeout=min(CONNECT_SECONDS, max(retry_seconds / 2, 1.0)),
        read_timeout=min(READ_SECONDS, max(retry_seconds / 2, 1.0)),
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=CONNECTIONS,
    )
    try:
        return open_session(storage).create_client("s3", endpoint_url=resolved.endpoint_url or None, config=config)
    except ValueError as error:
        raise ConfigError(f"the endpoint {resolved.endpoint_url!r} cannot be used: {error}") from error


def _upload_parts(client: Any, path: str, where: dict[str, str]) -> None:
    # Not at the top: few manifests are so large, and every operation would wait for these.
    from boto3.exceptions import S3UploadFailedError
    from boto3.s3.transfer import S3Transfer, TransferConfig

    config = TransferConfig(
        multipart_threshold=ONE_PUT_BYTES, multipart_chunksize=ONE_PUT_BYTES, max_concurrency=UPLOAD_THREADS
    )
    try:
        S3Transfer(client, config).upload_file(path, where["Bucket"], where["Key"])
    except S3UploadFailedError as error:
        if isinstance(error.__context__, _FOREIGN):
            raise error.__context__ from error
        raise


def _get(client: Any, **asked: str) -> Any:
    """Returns the answer to a GET; ``None`` if the range that was asked for begins at or after the object's end."""
    try:
        return client.get_object(**asked)
    except ClientError as error:
        if "Range" in asked and _status(error) == RANGE_NOT_SATISFIABLE:
            return None
        raise


def _facts(key: str, answer: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(key, answer["ContentLength"], _epoch_ns(answer["LastModified"]))


def _epoch_ns(when: datetime.datetime) -> int:
    return int(when.timestamp() * 1000) * 1_000_000


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _failure(error: BaseException) -> Failure:
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        code, status = str(details.get("Code", "")), _status(error)
        text = f"{code or status}: {details.get('Message', '') or 'no message'}"
        return Failure(kind_of(code, status) or FailureKind.UNAVAILABLE, " ".join(text.split()), code)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        return Failure(FailureKind.ACCESS_DENIED, text, "NoCredentialProviders")
    if isinstance(error, botocore.exceptions.ParamValidationError):
        return Failure(FailureKind.BUCKET_NOT_FOUND, text)
    return Failure(FailureKind.UNAVAILABLE, text)
