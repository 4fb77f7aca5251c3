"""What is said to a store: compared with what botocore would say."""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import botocore.session
import msgspec
import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Credentials, Provider, StorageConfig
from agent.config.provider import ResolvedStorage, resolve
from agent.errors import ConfigError
from agent.storage.failure import FailureKind
from agent.storage.http_head import parse_head
from agent.storage.sigv4 import NO_PAYLOAD, UNSIGNED, Keys, signed_headers, signed_query
from agent.storage.stream_requests import Requests, refusal

CREDENTIALS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "a/session+token==")

STORAGES = [
    StorageConfig(Provider.S3, "bucket", region="eu-west-1"),
    StorageConfig(Provider.S3, "bucket", region="cn-north-1"),
    StorageConfig(Provider.S3, "bucket", region="us-gov-west-1"),
    StorageConfig(Provider.S3, "bucket.with.dots", region="eu-west-1"),
    StorageConfig(Provider.S3, "bucket", endpoint="https://s3.internal:443"),
    StorageConfig(Provider.S3, "bucket", endpoint="http://10.0.0.1:9000"),
    StorageConfig(Provider.R2, "bucket", endpoint="https://account.r2.cloudflarestorage.com"),
    StorageConfig(Provider.B2, "bucket", region="us-west-004"),
    StorageConfig(Provider.WASABI, "bucket", region="us-east-2"),
    StorageConfig(Provider.CUSTOM, "bucket", endpoint="http://[::1]:8333"),
    StorageConfig(Provider.CUSTOM, "Bucket_name", endpoint="http://store.example.com:80"),
]

KEY = "my models/it's *ü 快照?[x]\"&#%41+;$HOME`~<>|/chunks/ab"


def parsed(request: bytes) -> tuple[str, str, dict[str, str]]:
    line, *headers = request.decode().rstrip("\r\n").split("\r\n")
    method, path, version = line.split(" ")
    assert version == "HTTP/1.1"
    return method, path, dict(header.split(": ", 1) for header in headers)


def sent_by_botocore(storage: StorageConfig, resolved: ResolvedStorage, operation: str, **arguments: object) -> Any:
    """Returns the request that botocore would send."""
    session = botocore.session.Session()
    session.set_credentials(CREDENTIALS.access_key_id, CREDENTIALS.secret_access_key, CREDENTIALS.session_token)
    config = Config(
        region_name=resolved.region,
        s3={"addressing_style": "path" if resolved.path_style else "auto"},
        request_checksum_calculation="when_required",
    )
    client = session.create_client("s3", endpoint_url=resolved.endpoint_url or None, config=config)
    sent: list[AWSPreparedRequest] = []

    def catch(request: AWSPreparedRequest, **_: object) -> None:
        sent.append(request)
        raise KeyboardInterrupt

    client.meta.events.register("before-send.s3", catch)
    with pytest.raises(KeyboardInterrupt):
        getattr(client, operation)(Bucket=storage.bucket, **arguments)
    return sent[0]


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: f"{storage.provider.value}-{storage.region}")
def test_objects_are_where_botocore_finds_them(storage: StorageConfig) -> None:
    storage = msgspec.structs.replace(storage, prefix="pre/fix", credentials=CREDENTIALS)
    resolved = resolve(storage)
    requests = Requests(storage, resolved)
    for operation, arguments, ours in (
        ("get_object", {"Key": f"pre/fix/{KEY}"}, requests.get(KEY, 0, None)),
        ("head_bucket", {}, requests.bucket("HEAD")),
    ):
        theirs = sent_by_botocore(storage, resolved, operation, **arguments)
        url = urlsplit(theirs.url)
        method, path, headers = parsed(ours)
        default = ":443" if url.scheme == "https" else ":80"
        assert (method, path, headers["host"]) == (theirs.method, url.path or "/", url.netloc.removesuffix(default))
        assert requests.is_tls == (url.scheme == "https")


def test_what_is_asked_of_a_bucket_and_inside_it_is_what_botocore_asks() -> None:
    storage = msgspec.structs.replace(STORAGES[5], credentials=CREDENTIALS)
    resolved = resolve(storage)
    requests = Requests(storage, resolved)
    theirs = sent_by_botocore(storage, resolved, "list_objects_v2", Prefix=KEY, Delimiter="/", ContinuationToken="+/=")
    query = {"list-type": "2", "prefix": KEY, "delimiter": "/", "continuation-token": "+/=", "encoding-type": "url"}
    method, target, _ = parsed(requests.bucket("GET", query))
    assert (method, urlsplit(target).path) == (theirs.method, urlsplit(theirs.url).path)
    assert parse_qs(urlsplit(target).query) == parse_qs(urlsplit(theirs.url).query)
    origin = {"Bucket": storage.bucket, "Key": KEY}
    theirs = sent_by_botocore(storage, resolved, "copy_object", Key="to", CopySource=origin)
    method, path, headers = parsed(requests.copy(KEY, "to"))
    assert (method, path) == (theirs.method, urlsplit(theirs.url).path)
    assert headers["x-amz-copy-source"] == "/" + theirs.headers["x-amz-copy-source"].decode()


@given(
    method=st.sampled_from(["GET", "PUT"]),
    path=st.text("abc/%20-_.~", min_size=1, max_size=20).map(lambda text: f"/bucket/{text}"),
    is_signed=st.booleans(),
    token=st.sampled_from(["", "a/session+token=="]),
    epoch=st.integers(1_000_000_000, 4_000_000_000),
    region=st.sampled_from(["us-east-1", "auto"]),
    query=st.sampled_from(["", "list-type=2&prefix=a%20b%2Fc"]),
    more=st.sampled_from([{}, {"x-amz-copy-source": "/bucket/a%20b"}]),
)
def test_signatures_are_those_of_botocore(
    method: str, path: str, is_signed: bool, token: str, epoch: int, region: str, query: str, more: dict[str, str]
) -> None:
    keys = Keys("AKIDEXAMPLE", CREDENTIALS.secret_access_key, token, region)
    payload = NO_PAYLOAD if is_signed else UNSIGNED
    ours = signed_headers(method, "store:9000", path, payload, keys, epoch, query, more)
    request = AWSRequest(method, f"http://store:9000{path}{'?' if query else ''}{query}", headers=more)
    request.context["client_config"] = Config(s3={"payload_signing_enabled": is_signed})
    auth = S3SigV4Auth(BotoCredentials("AKIDEXAMPLE", CREDENTIALS.secret_access_key, token or None), "s3", region)
    stamp = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    request.context["timestamp"] = stamp
    auth._modify_request_before_signing(request)
    signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    assert ours["authorization"].endswith(f"Signature={signature}")
    assert f"Credential={auth.scope(request)}," in ours["authorization"]


@given(
    st.sampled_from(["PUT", "DELETE"]),
    st.text(alphabet="abcXYZ/-_.~%ü", min_size=1),
    st.integers(0, 4_000_000_000),
    st.integers(1, 604_800),
    st.sampled_from(["", CREDENTIALS.session_token]),
)
def test_queries_that_expire_are_signed_as_botocore_does(
    method: str, key: str, epoch: int, seconds: int, token: str
) -> None:
    path = f"/bucket/{quote(key, safe='/-_.~')}"
    keys = Keys(CREDENTIALS.access_key_id, CREDENTIALS.secret_access_key, token, "eu-west-1")
    ours = signed_query(method, "store:9000", path, keys, epoch, seconds)

    request = AWSRequest(method, f"http://store:9000{path}")
    boto = BotoCredentials(keys.access_key_id, keys.secret_access_key, token or None)
    now = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: now)
        S3SigV4QueryAuth(boto, "s3", "eu-west-1", expires=seconds).add_auth(request)
    assert parse_qs(ours) == parse_qs(urlsplit(request.url).query)


def test_ranges_and_sizes() -> None:
    requests = Requests(STORAGES[0], resolve(STORAGES[0]))
    with_keys = Requests(*(lambda s: (s, resolve(s)))(StorageConfig(Provider.S3, "bucket", credentials=CREDENTIALS)))
    assert requests.is_tls
    assert "range" not in parsed(with_keys.get("x", 0, None))[2]
    assert parsed(with_keys.get("x", 0, 10))[2]["range"] == "bytes=0-9"
    assert parsed(with_keys.get("x", 5, None))[2]["range"] == "bytes=5-"
    put = parsed(with_keys.put("x", 0, UNSIGNED))
    assert (put[0], put[2]["content-length"]) == ("PUT", "0")


def test_a_bundle_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/bundle.pem")
    with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE: /nowhere/bundle.pem"):
        Requests(STORAGES[0], resolve(STORAGES[0]))


DAY = "Wed, 21 Oct 2026"


@pytest.mark.parametrize(
    ("head", "text", "kind", "wish", "said"),
    [
        ("403 Forbidden", "", FailureKind.ACCESS_DENIED, 0.0, "403: Forbidden"),
        ("404 Not Found", "<Code>NoSuchBucket</Code>", FailureKind.BUCKET_NOT_FOUND, 0.0, "NoSuchBucket: Not Found"),
        ("503 x\r\nRetry-After: 7", "", FailureKind.UNAVAILABLE, 7.0, "503: x"),
        (f"503 x\r\nRetry-After: {DAY} 07:28:05 GMT", "", FailureKind.UNAVAILABLE, 0.0, "503: x"),
        (
            f"503 x\r\nRetry-After: {DAY} 07:28:05 GMT\r\nDate: {DAY} 07:28:00 GMT",
            "",
            FailureKind.UNAVAILABLE,
            5.0,
            "503: x",
        ),
        (
            f"503 x\r\nRetry-After: {DAY} 07:28:00 GMT\r\nDate: {DAY} 07:28:05 GMT",
            "",
            FailureKind.UNAVAILABLE,
            0.0,
            "503: x",
        ),
        ("429", "<html>", FailureKind.UNAVAILABLE, 0.0, "429: no message"),
        ("418 Teapot", "", FailureKind.UNAVAILABLE, 0.0, "418: Teapot"),
        ("307 T", "", FailureKind.BUCKET_NOT_FOUND, 0.0, "307: T"),
    ],
)
def test_refusals_are_understood(head: str, text: str, kind: FailureKind, wish: float, said: str) -> None:
    error = refusal(parse_head(f"HTTP/1.1 {head}".encode()), text)
    assert (error.failure.kind, error.wish, error.failure.text) == (kind, wish, said)
