"""The configuration for people: every value and where it comes from."""

from __future__ import annotations

import enum
import json

from agent.config.keys import CREDENTIAL_KEYS, all_keys, is_secret, table_of
from agent.config.load import LoadedConfig
from agent.config.model import Config
from agent.config.provider import resolve
from agent.config.values import show_size

_SIZES = frozenset({"transfer.staging_size", "scan.large_file_size"})


def lines(loaded: LoadedConfig) -> list[str]:
    """Returns a line of TOML for each key with its origin, secrets masked, and what the storage resolves to."""
    shown = {key: _show(key, value) for key, value in plain_values(loaded.config).items()}
    written = [f"{key} = {value}" for key, value in shown.items()]
    width = min(max(len(line) for line in written), 60)
    report = [f"{line:{width}}  # {loaded.origins[key]}" for key, line in zip(shown, written, strict=True)]
    return [*report, f"# storage: {_describe(loaded.config)}"]


def plain_values(config: Config) -> dict[str, object]:
    """Returns the value of every key by "<table>.<key>"; keys of absent credentials are empty."""
    values: dict[str, object] = {}
    for key in all_keys(config.providers):
        table, name = table_of(key), key.rpartition(".")[2]
        holder = getattr(config, table, None) or config.providers[table.partition(".")[2]]
        if f"storage.{name}" in CREDENTIAL_KEYS:
            holder = holder.credentials
        values[key] = getattr(holder, name) if holder is not None else ""
    return values


def _show(key: str, value: object) -> str:
    if is_secret(key) and value:
        return '"********"'
    if key in _SIZES and isinstance(value, int):
        return f'"{show_size(value)}"'
    if isinstance(value, enum.Enum):
        value = value.value
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _describe(config: Config) -> str:
    if not config.storage.configured:
        return "none configured; each request must name its own"
    resolved = resolve(config.storage)
    if not resolved.region:
        return f"the folder {resolved.endpoint_url}"
    style = "path" if resolved.path_style else "virtual-hosted"
    return f"{resolved.endpoint_url or 'the endpoint of AWS'}, region {resolved.region}, {style} style"
