"""Every key of the configuration: how its value is read and which ones are allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from agent.config import values
from agent.config.model import GIB, MIB, EngineChoice, PageCache, PerRequest, Provider
from agent.config.values import Reader

KEYS: Mapping[str, Reader] = MappingProxyType(
    {
        "agent.listen": values.list_of(values.listen_address, least=1),
        "agent.metrics_listen": values.metrics_address,
        "agent.state_dir": values.folder,
        "agent.staging_dir": values.folder,
        "agent.workspace_roots": values.list_of(values.folder, least=1),
        "agent.log_level": values.word("debug", "info", "warning", "error"),
        "agent.drain_seconds": values.seconds(0, 3600),
        "agent.resume_on_start": values.yes_or_no,
        "agent.standby": values.yes_or_no,
        "transfer.engine": values.one_of(EngineChoice),
        "transfer.connections": values.whole(1, 1024),
        # Two chunks of 64 MiB at least, or the pipeline would stand still while one is moved.
        "transfer.staging_size": values.size(160 * MIB, 1024 * GIB),
        "transfer.workers": values.whole(0, 256),
        "transfer.s5cmd_path": values.program,
        "transfer.retry_seconds": values.seconds(0, 86400),
        "transfer.page_cache": values.one_of(PageCache),
        "storage.provider": values.one_of(Provider),
        "storage.bucket": values.text,
        "storage.prefix": values.prefix,
        "storage.endpoint": values.text,
        "storage.region": values.text,
        "storage.profile": values.text,
        "storage.access_key_id": values.text,
        "storage.secret_access_key": values.text,
        "storage.session_token": values.text,
        "storage.per_request": values.one_of(PerRequest),
        "scan.model_suffixes": values.list_of(values.suffix, least=0),
        # A file below it must fit into a pack of 64 MiB together with its header.
        "scan.large_file_size": values.size(MIB // 16, 32 * MIB),
    }
)
"""The reader of each key, by "<table>.<key>", in the order in which they are shown."""

PROVIDERS = "providers"
"""The table whose own tables are further stores: "providers.<name>.<key>"."""

PROVIDER_KEYS = (
    "provider", "bucket", "prefix", "endpoint", "region", "profile", "access_key_id", "secret_access_key",
    "session_token",
)  # fmt: skip
"""The keys of [storage] that a table [providers.NAME] has too."""

TABLES = (*dict.fromkeys(key.partition(".")[0] for key in KEYS), PROVIDERS)
"""The tables of agent.toml."""

CREDENTIAL_KEYS = ("storage.access_key_id", "storage.secret_access_key", "storage.session_token")
"""The keys that together are ``StorageConfig.credentials``."""

SECRET_KEYS = frozenset({"storage.secret_access_key", "storage.session_token"})
"""Keys of [storage] whose values are never shown."""

_PROVIDER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def is_secret(key: str) -> bool:
    """Says whether a key's value is never shown."""
    return f"storage.{key.rpartition('.')[2]}" in SECRET_KEYS


def is_provider_name(name: str) -> bool:
    """Says whether a table [providers.NAME] may have this name; "storage" stands for [storage] on command lines."""
    return _PROVIDER_NAME.fullmatch(name) is not None and name != "storage"


def reader_of(key: str) -> Reader | None:
    """Returns how the value of a key is read; ``None`` if there is no such key."""
    table, _, rest = key.partition(".")
    name, _, own = rest.partition(".")
    if table == PROVIDERS and is_provider_name(name) and own in PROVIDER_KEYS:
        return KEYS[f"storage.{own}"]
    return KEYS.get(key)


def all_keys(providers: Iterable[str]) -> list[str]:
    """Returns every key that there is, with those of the tables [providers.NAME] of these names."""
    return [*KEYS, *(f"{PROVIDERS}.{name}.{key}" for name in providers for key in PROVIDER_KEYS)]


def table_of(key: str) -> str:
    """Returns what stands before the last dot: "storage", or "providers.<name>"."""
    return key.rpartition(".")[0]
