"""Every provider, resolved."""

from __future__ import annotations

import pytest

from agent.config.model import Provider, StorageConfig
from agent.config.provider import ResolvedStorage, resolve
from agent.errors import ConfigError


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (StorageConfig(Provider.S3, "data"), ResolvedStorage("", "us-east-1", False)),
        (StorageConfig(Provider.S3, "data", region="eu-central-1"), ResolvedStorage("", "eu-central-1", False)),
        (StorageConfig(Provider.S3, "data.example.com"), ResolvedStorage("", "us-east-1", True)),
        (
            StorageConfig(Provider.S3, "data", endpoint="https://vpce.example.com/"),
            ResolvedStorage("https://vpce.example.com", "us-east-1", False),
        ),
        (
            StorageConfig(Provider.R2, "data", endpoint="https://0a1b.r2.cloudflarestorage.com"),
            ResolvedStorage("https://0a1b.r2.cloudflarestorage.com", "auto", True),
        ),
        (
            StorageConfig(Provider.B2, "data", region="us-west-004"),
            ResolvedStorage("https://s3.us-west-004.backblazeb2.com", "us-west-004", True),
        ),
        (
            StorageConfig(Provider.B2, "data", endpoint="https://s3.eu-central-003.backblazeb2.com"),
            ResolvedStorage("https://s3.eu-central-003.backblazeb2.com", "eu-central-003", True),
        ),
        (
            StorageConfig(Provider.WASABI, "data"),
            ResolvedStorage("https://s3.us-east-1.wasabisys.com", "us-east-1", True),
        ),
        (
            StorageConfig(Provider.WASABI, "data", region="eu-west-1"),
            ResolvedStorage("https://s3.eu-west-1.wasabisys.com", "eu-west-1", True),
        ),
        (
            StorageConfig(Provider.CUSTOM, "data", endpoint="http://127.0.0.1:8333"),
            ResolvedStorage("http://127.0.0.1:8333", "us-east-1", True),
        ),
        (StorageConfig(Provider.LOCAL, endpoint="/mnt/nfs/"), ResolvedStorage("/mnt/nfs", "", False)),
    ],
)
def test_resolves(storage: StorageConfig, expected: ResolvedStorage) -> None:
    assert resolve(storage) == expected


@pytest.mark.parametrize(
    ("storage", "key", "message"),
    [
        (StorageConfig(Provider.R2, "data"), "storage.endpoint", "is missing; give a URL such as https://ACCOUNT.r2"),
        (StorageConfig(Provider.CUSTOM, "data"), "storage.endpoint", "for provider custom"),
        (StorageConfig(Provider.CUSTOM, "data", endpoint="s3.example.com"), "storage.endpoint", "'s3.example.com'"),
        (StorageConfig(Provider.CUSTOM, "data", endpoint="ftp://example.com"), "storage.endpoint", "http://HOST"),
        (StorageConfig(Provider.CUSTOM, "data", endpoint="http://h:port"), "storage.endpoint", "http://HOST"),
        (StorageConfig(Provider.CUSTOM, "data", endpoint="http://[::1"), "storage.endpoint", "http://HOST"),
        (StorageConfig(Provider.R2, "data", endpoint="https://a.r2.cloudflarestorage.com/data"), "storage.endpoint",
         "without a bucket or path"),
        (StorageConfig(Provider.B2, "data"), "storage.region", "us-west-004"),
        (StorageConfig(Provider.B2, "data", region="a", endpoint="https://s3.b.backblazeb2.com"), "storage.region",
         "b, as storage.endpoint says"),
        (StorageConfig(Provider.LOCAL), "storage.endpoint", "is missing; give an absolute folder"),
        (StorageConfig(Provider.LOCAL, endpoint="relative"), "storage.endpoint", "'relative'"),
        (StorageConfig(Provider.S3, "s3://data"), "storage.bucket", "the bucket's name alone"),
        (StorageConfig(Provider.S3, "data", prefix="a//b"), "storage.prefix", "none of them empty"),
        (StorageConfig(Provider.S3, "data", prefix="../b"), "storage.prefix", "'..'"),
        (StorageConfig(Provider.S3, "data", region="us east"), "storage.region", "'us east'"),
    ],
)  # fmt: skip
def test_refuses_in_one_line(storage: StorageConfig, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(storage)
    assert caught.value.metadata == {"key": key}
    assert str(caught.value).startswith(f"{key}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
