"""What is said to an S3 store, and what the store's refusals mean."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import msgspec

from agent import version
from agent.config.model import StorageConfig
from agent.config.provider import ResolvedStorage
from agent.errors import GpusnapError
from agent.storage.failure import Failure, FailureKind, kind_of, to_error
from agent.storage.http_head import BrokenAnswerError, Head
from agent.storage.keys import check_key, clean_prefix, join
from agent.storage.s3_clock import SigningClock
from agent.storage.s3_listing import http_time
from agent.storage.session import KeySource, NoKeysError
from agent.storage.sigv4 import NO_PAYLOAD, UNSIGNED, Keys, signed_headers, signed_query
from agent.storage.store import Deadline
from agent.storage.stream_connection import Connection
from agent.storage.trust import trust

_NOTHING: Mapping[str, str] = {}
_DNS_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_SIGNED = re.compile(rb"\r\nx-amz-date: (\d{8}T\d{6}Z)\r\n")
_CODE = re.compile(r"<Code>([^<]{1,200})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,1000})</Message>")


class RefusedError(Exception):
    """The store answered no.

    Attributes:
        failure: what it meant.
        wish: seconds it asks to wait before the next try; 0 for none.
    """

    def __init__(self, failure: Failure, wish: float) -> None:
        super().__init__(failure.text)
        self.failure = failure
        self.wish = wish


class Address(msgspec.Struct, frozen=True):
    """Where a bucket is: the server, its Host header, and the path before the keys."""

    host: str
    port: int
    is_tls: bool
    host_header: str
    path: str


def address_of(bucket: str, resolved: ResolvedStorage) -> Address:
    """Returns where a bucket is."""
    suffix = "amazonaws.com.cn" if resolved.region.startswith("cn-") else "amazonaws.com"
    parts = urlsplit(resolved.endpoint_url or f"https://s3.{resolved.region}.{suffix}")
    assert parts.hostname is not None
    is_tls = parts.scheme == "https"
    host, netloc, path = parts.hostname, parts.netloc, f"/{bucket}"
    # As other S3 clients do: only AWS's own endpoints surely know the bucket in the host's name.
    if not resolved.path_style and not resolved.endpoint_url and _DNS_BUCKET.fullmatch(bucket):
        host, netloc, path = f"{bucket}.{host}", f"{bucket}.{netloc}", ""
    port = parts.port or (443 if is_tls else 80)
    return Address(host, port, is_tls, netloc.removesuffix(":443" if is_tls else ":80"), path)


class Requests:
    """Makes connections to one bucket and the requests for its objects. For any thread.

    Args:
        storage: the bucket, the prefix and the credentials.
        resolved: its endpoint, region and addressing style.

    Attributes:
        address: where the bucket is.
        clock: what requests are signed with.

    Raises:
        ConfigError: the prefix is not allowed, or AWS_CA_BUNDLE cannot be read.
    """

    def __init__(self, storage: StorageConfig, resolved: ResolvedStorage) -> None:
        self._bucket = storage.bucket
        self._prefix = clean_prefix(storage.prefix)
        self._keys = KeySource(storage, resolved.region)
        self.address = address_of(storage.bucket, resolved)
        self._location = f"s3://{storage.bucket} at {resolved.endpoint_url or 'AWS'}"
        self._tls = trust() if self.address.is_tls else None
        self.clock = SigningClock()

    @property
    def is_tls(self) -> bool:
        """Whether bytes are protected on their way."""
        return self.address.is_tls

    def connection(self) -> Connection:
        """Returns a new connection; nothing is contacted yet."""
        return Connection(self.address.host, self.address.port, self._tls)

    def get(self, key: str, begin: int, end: int | None) -> bytes:
        """Returns the request for the bytes from ``begin`` up to ``end``; (0, None) for the whole object.

        Raises:
            InvalidRequestError: the key is not allowed.
            RefusedError: there are no credentials.
        """
        headers = {}
        if begin or end is not None:
            headers["range"] = f"bytes={begin}-{'' if end is None else end - 1}"
        return self.about("GET", key, headers)

    def put(self, key: str, size: int, payload: str) -> bytes:
        """Returns the head of the request that stores ``size`` bytes; raises as ``get``.

        Args:
            key: the object.
            size: bytes of the body.
            payload: the SHA-256 of the body in hex, or ``UNSIGNED``.
        """
        headers = {"content-length": str(size)}
        if payload != UNSIGNED:
            # Some stores compare the body with a checksum, but not with what was signed.
            headers["x-amz-checksum-sha256"] = base64.b64encode(bytes.fromhex(payload)).decode()
        return self.about("PUT", key, headers, payload)

    def about(self, method: str, key: str, headers: Mapping[str, str] = _NOTHING, payload: str = NO_PAYLOAD) -> bytes:
        """Returns the head of any request about an object; raises as ``get``.

        Args:
            method: such as HEAD.
            key: the object.
            headers: further headers, with names in lower case.
            payload: the SHA-256 of the body in hex, or ``UNSIGNED``.
        """
        return self._signed(method, self._path(key), headers, payload)

    def bucket(self, method: str, query: Mapping[str, str] = _NOTHING) -> bytes:
        """Returns a request about the bucket; raises as ``get``."""
        encoded = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
        return self._signed(method, self.address.path or "/", {}, NO_PAYLOAD, encoded)

    def copy(self, source: str, key: str) -> bytes:
        """Returns the request that stores a copy of an object under another key; raises as ``get``."""
        origin = quote(f"/{self._bucket}/{join(self._prefix, check_key(source))}", safe="/-_.~")
        return self.about("PUT", key, {"content-length": "0", "x-amz-copy-source": origin})

    def before(self, method: str, key: str, size: int, md5: str, deadline: Deadline) -> bytes:
        """Returns the head of a request that the store refuses after the deadline; raises as ``get``.

        Args:
            method: PUT or DELETE.
            size: bytes of the body.
            md5: the MD5 of the body in Base64, with which every store compares it.
        """
        path = self._path(key)
        host = self.address.host_header
        query = signed_query(method, host, path, self._current_keys(), deadline.begin_s, deadline.seconds)
        return _head(method, f"{path}?{query}", {"host": host, "content-length": str(size), "content-md5": md5})

    def refused(self, request: bytes, head: Head, text: str) -> RefusedError:
        """Returns what an answer that is not 2xx means.

        One that this machine's wrong clock explains is worth another try: from then on the store's clock counts.

        Args:
            request: the head of the request.
            head, text: the answer's head and body.
        """
        error = refusal(head, text)
        signed = _SIGNED.search(request)
        is_denied = error.failure.kind is FailureKind.ACCESS_DENIED
        if is_denied and signed and self.clock.learn(head.headers.get("date", ""), signed[1].decode()):
            return RefusedError(msgspec.structs.replace(error.failure, kind=FailureKind.UNAVAILABLE), 0.0)
        return error

    def error(self, failure: Failure, key: str) -> GpusnapError:
        """Returns the error of the hierarchy for a failure about an object, or about the bucket (empty)."""
        return to_error(failure, self._location, join(self._prefix, key) if key else "")

    def _signed(self, method: str, path: str, headers: Mapping[str, str], payload: str, query: str = "") -> bytes:
        own = {name: value for name, value in headers.items() if name.startswith("x-amz-")}
        signed = signed_headers(
            method, self.address.host_header, path, payload, self._current_keys(), self.clock.now(), query, own
        )
        return _head(method, f"{path}?{query}" if query else path, {**signed, **headers})

    def _path(self, key: str) -> str:
        return f"{self.address.path}/{quote(join(self._prefix, check_key(key)), safe='/-_.~')}"

    def _current_keys(self) -> Keys:
        try:
            return self._keys.keys()
        except NoKeysError as error:
            raise _no_credentials(str(error)) from error


def _head(method: str, target: str, headers: dict[str, str]) -> bytes:
    headers = {**headers, "user-agent": f"gpusnap/{version()}", "accept-encoding": "identity"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode()


def refusal(head: Head, text: str) -> RefusedError:
    """Returns what an answer that is not 2xx means, from its head and its body."""
    import html  # errors alone need it, and it takes a while to load

    code_match, message_match = _CODE.search(text), _MESSAGE.search(text)
    code = code_match[1] if code_match else ""
    message = html.unescape(message_match[1]) if message_match else head.reason or "no message"
    region = head.headers.get("x-amz-bucket-region", "")
    if region and 300 <= head.status < 400:
        message += f" (the bucket's region is {region})"
    kind = kind_of(code, head.status) or FailureKind.UNAVAILABLE
    shown = f"{code or head.status}: {message}"
    return RefusedError(Failure(kind, " ".join(shown.split()), code), _wish(head))


def _wish(head: Head) -> float:
    """Returns the seconds of a Retry-After, or up to its date by the store's own clock."""
    wish = head.headers.get("retry-after", "")
    if wish.isdecimal():
        return float(wish)
    try:
        return max(http_time(wish) - http_time(head.headers.get("date", "")), 0) / 1e9
    except BrokenAnswerError:
        return 0.0


def _no_credentials(text: str) -> RefusedError:
    return RefusedError(Failure(FailureKind.ACCESS_DENIED, " ".join(text.split()), "NoCredentialProviders"), 0.0)
