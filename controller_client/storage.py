"""Stores, as plain typed data."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Provider(enum.Enum):
    """The vendor of a store; ``UNKNOWN`` in a request leaves it to the agent's configuration."""

    UNKNOWN = "unknown"
    S3 = "s3"
    R2 = "r2"
    B2 = "b2"
    WASABI = "wasabi"
    LOCAL = "local"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class Credentials:
    """S3 keys; ``session_token`` is empty for long-lived ones. Never shown by ``repr``."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Storage:
    """A repository; given in a request, it replaces the agent's configured storage as a whole.

    Attributes:
        provider: the vendor.
        bucket: the bucket; empty for ``Provider.LOCAL``.
        prefix: the prefix of every object's key.
        endpoint: the endpoint's URL, or the folder for ``Provider.LOCAL``.
        region: the region; empty for the vendor's default.
        credentials: keys for this request; ``None`` to use those of the agent.
    """

    provider: Provider = Provider.UNKNOWN
    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    credentials: Credentials | None = None

    @property
    def location(self) -> str:
        """One line for people, such as ``s3://bucket/prefix`` or a folder."""
        if self.provider is Provider.LOCAL:
            return "/".join(part for part in (self.endpoint.rstrip("/"), self.prefix) if part)
        return f"{self.provider.value}://" + "/".join(part for part in (self.bucket, self.prefix) if part)


@dataclass(frozen=True, slots=True)
class NamedStorage:
    """A store that the agent's configuration names: a table [providers.NAME]."""

    name: str
    storage: Storage
