"""Decides each value of the configuration: command line > environment > agent.toml > defaults.

The credentials that systemd passes stand between the environment and agent.toml. The variables of the AWS tools are
the weakest: they only replace defaults, and only where the provider has a use for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from agent.config.keys import CREDENTIAL_KEYS, PROVIDERS, TABLES, all_keys, is_secret, reader_of, table_of
from agent.config.model import Config, Credentials, Provider, StorageConfig
from agent.config.provider import resolve
from agent.config.sources import Given, Layer, from_aws, from_environment, from_file, from_flags, from_systemd
from agent.config.values import NotAllowedError, Value, show
from agent.errors import ConfigError

DEFAULT = "default"
"""The origin of a value that nothing gave."""

STORAGE = "storage"


class LoadedConfig(msgspec.Struct, frozen=True):
    """The configuration, and where each of its values comes from (by "<table>.<key>")."""

    config: Config
    origins: Mapping[str, str]


def load(path: str | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> LoadedConfig:
    """Loads the configuration.

    Args:
        path: agent.toml; ``None`` for /etc/gpusnap/agent.toml if it exists.
        environ: the environment.
        flags: values of the command line by "<table>.<key>".

    Raises:
        ConfigError: one line naming the key, the value, where it came from and what is allowed.
    """
    layers = [from_flags(flags), from_environment(environ), from_systemd(environ), from_file(path)]
    given = _overlay(layers)
    values = {key: _read(key, value) for key, value in given.items()}
    provider = values.get("storage.provider", Provider.S3)
    for key, value in _useful_aws(from_aws(environ), provider, given).items():
        given[key] = value
        values[key] = _read(key, value)
    config = _build(values, given)
    if config.storage.configured or config.storage.provider is not Provider.S3:
        _check_storage(STORAGE, config.storage, given)
    for name, storage in config.providers.items():
        _check_provider(f"{PROVIDERS}.{name}", storage, given)
    origins = {key: given[key].origin if key in given else DEFAULT for key in all_keys(config.providers)}
    return LoadedConfig(config, MappingProxyType(origins))


def _overlay(layers: Sequence[Layer]) -> dict[str, Given]:
    """Takes each key from the first layer that has it; a session token only from where the access key id is."""
    given: dict[str, Given] = {}
    for layer in layers:
        given |= {
            key: value
            for key, value in layer.items()
            if key not in given and not (key.endswith(".session_token") and f"{table_of(key)}.access_key_id" in given)
        }
    return given


def _useful_aws(aws: Layer, provider: Value, given: Layer) -> Layer:
    """Leaves of the AWS variables those that neither contradict what is given nor are foreign to the provider."""
    if provider is Provider.LOCAL:
        return {}
    useful = dict(aws)
    # Keys belong together, and a profile chosen for gpusnap stands above keys meant for everything.
    if any(key in given for key in (*CREDENTIAL_KEYS, "storage.profile")):
        for key in (*CREDENTIAL_KEYS, "storage.profile"):
            useful.pop(key, None)
    # A region or endpoint of AWS says nothing about another vendor's.
    if provider not in (Provider.S3, Provider.CUSTOM):
        useful.pop("storage.region", None)
        useful.pop("storage.endpoint", None)
    return {key: value for key, value in useful.items() if key not in given}


def _read(key: str, value: Given) -> Value:
    read = reader_of(key)
    assert read is not None
    try:
        return read(value.raw)
    except NotAllowedError as error:
        shown = "the value" if is_secret(key) else show(value.raw)
        message = f"{key}: {shown} from {value.origin} is not allowed; give {error}"
        raise ConfigError(message, metadata={"key": key}) from error


def _build(values: Mapping[str, Value], given: Layer) -> Config:
    tables: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        tables.setdefault(table_of(key), {})[key.rpartition(".")[2]] = value
    providers = sorted(table for table in tables if table.startswith(f"{PROVIDERS}."))
    for table in [STORAGE, *providers]:
        tables[table] = _with_credentials(table, tables.get(table, {}), given)
    config: dict[str, object] = {table: tables.get(table, {}) for table in TABLES}
    config[PROVIDERS] = {table.partition(".")[2]: tables[table] for table in providers}
    return msgspec.convert(config, Config)


def _with_credentials(table: str, values: Mapping[str, object], given: Layer) -> dict[str, object]:
    """Returns the values of a store with its keys in one piece."""
    names = [key.partition(".")[2] for key in CREDENTIAL_KEYS]
    store = {name: value for name, value in values.items() if name not in names}
    present = [f"{table}.{name}" for name in names if values.get(name)]
    if not present:
        return store
    for key in (f"{table}.{name}" for name in names[:2]):
        if key not in present:
            message = f"{key} is missing, though {present[0]} is given by {given[present[0]].origin}; give both or none"
            raise ConfigError(message, metadata={"key": key})
    return {**store, "credentials": Credentials(*(str(values.get(name, "")) for name in names))}


def _check_provider(table: str, storage: StorageConfig, given: Layer) -> None:
    if not storage.configured:
        key = f"{table}.endpoint" if storage.provider is Provider.LOCAL else f"{table}.bucket"
        raise ConfigError(f"{key}: is missing; a table of [{PROVIDERS}] names a store", metadata={"key": key})
    _check_storage(table, storage, given)


def _check_storage(table: str, storage: StorageConfig, given: Layer) -> None:
    try:
        resolve(storage)
    except ConfigError as error:
        key = error.metadata["key"].replace(STORAGE, table, 1)
        origin = given[key].origin if key in given else DEFAULT
        message = error.message.replace(f"{STORAGE}.", f"{table}.")
        raise ConfigError(f"{message} (from {origin})", metadata={"key": key}) from error
