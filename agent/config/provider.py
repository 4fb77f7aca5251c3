"""What each provider means: its endpoint, its region and how it addresses buckets. A pure table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

import msgspec

from agent.config.model import Provider, StorageConfig
from agent.config.values import show
from agent.errors import ConfigError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
_B2_HOST = re.compile(r"s3\.([a-z0-9-]+)\.backblazeb2\.com")


class ResolvedStorage(msgspec.Struct, frozen=True):
    """Where an S3 client connects, or which folder a local store is.

    Attributes:
        endpoint_url: the URL; empty for AWS's own. For ``local``, the folder.
        region: the region that requests are signed for; empty for ``local``.
        path_style: whether the bucket stands in the URL's path rather than in its host name.
    """

    endpoint_url: str
    region: str
    path_style: bool


MINIMUM_STORAGE_DAYS: Mapping[Provider, int] = MappingProxyType({Provider.WASABI: 90})
"""For how long a provider charges an object that is deleted sooner; those that are not here have no such time.

Wasabi's pay-as-you-go price has it (wasabi.com/pricing). Amazon S3 has it only in its storage classes for what is
seldom read, which no upload asks for; a lifecycle rule of the bucket may, and is not seen here.
"""


def resolve(storage: StorageConfig) -> ResolvedStorage:
    """Resolves a storage to what a client needs; contacts nothing.

    Raises:
        ConfigError: a value is missing, malformed or contradicts another; metadata "key" names it.
    """
    if storage.provider is Provider.LOCAL:
        return ResolvedStorage(_folder(storage), "", path_style=False)
    _check_names(storage)
    given = _url(storage.endpoint) if storage.endpoint else ""
    if storage.provider is Provider.S3:
        # A dot in the bucket's name would not fit the certificate of *.s3.amazonaws.com.
        return ResolvedStorage(given, storage.region or "us-east-1", path_style="." in storage.bucket)
    if storage.provider is Provider.R2:
        example = "https://ACCOUNT.r2.cloudflarestorage.com"
        return ResolvedStorage(given or _missing_endpoint(storage, example), storage.region or "auto", path_style=True)
    if storage.provider is Provider.B2:
        region = _b2_region(storage)
        return ResolvedStorage(given or f"https://s3.{region}.backblazeb2.com", region, path_style=True)
    if storage.provider is Provider.WASABI:
        region = storage.region or "us-east-1"
        return ResolvedStorage(given or f"https://s3.{region}.wasabisys.com", region, path_style=True)
    example = "https://s3.example.com:9000"
    return ResolvedStorage(given or _missing_endpoint(storage, example), storage.region or "us-east-1", path_style=True)


def _folder(storage: StorageConfig) -> str:
    if not os.path.isabs(storage.endpoint) or "\0" in storage.endpoint:
        raise _wrong("storage.endpoint", storage.endpoint, "an absolute folder, for provider local")
    return os.path.normpath(storage.endpoint)


def _check_names(storage: StorageConfig) -> None:
    if storage.bucket and not _BUCKET.fullmatch(storage.bucket):
        allowed = "the bucket's name alone: 2 to 63 letters, digits, dots, hyphens and underscores"
        raise _wrong("storage.bucket", storage.bucket, allowed)
    parts = storage.prefix.split("/") if storage.prefix else []
    if any(part in ("", ".", "..") for part in parts) or not storage.prefix.isprintable() or len(storage.prefix) > 512:
        allowed = "names joined by '/', none of them empty, '.' or '..', at most 512 characters"
        raise _wrong("storage.prefix", storage.prefix, allowed)
    if storage.region and not _REGION.fullmatch(storage.region):
        raise _wrong("storage.region", storage.region, "letters, digits and hyphens")


def _url(endpoint: str) -> str:
    allowed = "http://HOST[:PORT] or https://HOST[:PORT], without a bucket or path"
    try:
        parts = urlsplit(endpoint)
        valid = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.port != 0
            and parts.path in ("", "/")
            and not (parts.query or parts.fragment or parts.username or parts.password)
            and re.fullmatch(r"[\x21-\x7e]+", endpoint)
        )
    except ValueError:
        valid = False
    if not valid:
        raise _wrong("storage.endpoint", endpoint, allowed)
    return endpoint.rstrip("/")


def _b2_region(storage: StorageConfig) -> str:
    host = _B2_HOST.fullmatch(urlsplit(storage.endpoint).hostname or "")
    if host and storage.region and host[1] != storage.region:
        allowed = f"{host[1]}, as storage.endpoint says, or empty"
        raise _wrong("storage.region", storage.region, allowed)
    region = storage.region or (host[1] if host else "")
    if not region:
        raise _wrong("storage.region", "", "the bucket's region, such as us-west-004, for provider b2")
    return region


def _missing_endpoint(storage: StorageConfig, example: str) -> str:
    allowed = f"a URL such as {example}, for provider {storage.provider.value}"
    raise _wrong("storage.endpoint", "", allowed)


def _wrong(key: str, value: str, allowed: str) -> ConfigError:
    what = f"{show(value)} is not allowed" if value else "is missing"
    return ConfigError(f"{key}: {what}; give {allowed}", metadata={"key": key})
