"""Every key of the configuration: how its value is read and which ones are allowed."""

from __future__ import annotations

from collections.abc import Mapping
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

TABLES = tuple(dict.fromkeys(key.partition(".")[0] for key in KEYS))
"""The tables of agent.toml."""

CREDENTIAL_KEYS = ("storage.access_key_id", "storage.secret_access_key", "storage.session_token")
"""The keys that together are ``StorageConfig.credentials``."""

SECRET_KEYS = frozenset({"storage.secret_access_key", "storage.session_token"})
"""Keys whose values are never shown."""
