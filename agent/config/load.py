"""Decides each value of the configuration: command line > environment > agent.toml > defaults.

The credentials that systemd passes stand between the environment and agent.toml. The variables of the AWS tools are
the weakest: they only replace defaults, and only where the provider has a use for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from agent.config.keys import CREDENTIAL_KEYS, KEYS, SECRET_KEYS, TABLES
from agent.config.model import Config, Credentials, Provider, StorageConfig
from agent.config.provider import resolve
from agent.config.sources import Given, Layer, from_aws, from_environment, from_file, from_flags, from_systemd
from agent.config.values import NotAllowedError, Value, show
from agent.errors import ConfigError

DEFAULT = "default"
"""The origin of a value that nothing gave."""

_ACCESS_KEY_ID, _SECRET_ACCESS_KEY, _SESSION_TOKEN = CREDENTIAL_KEYS


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
        _check_storage(config.storage, given)
    origins = {key: given[key].origin if key in given else DEFAULT for key in KEYS}
    return LoadedConfig(config, MappingProxyType(origins))


def _overlay(layers: Sequence[Layer]) -> dict[str, Given]:
    """Takes each key from the first layer that has it; a session token only from where the access key id is."""
    given: dict[str, Given] = {}
    for layer in layers:
        new = {key: value for key, value in layer.items() if key not in given}
        if _ACCESS_KEY_ID in given:
            new.pop(_SESSION_TOKEN, None)
        given |= new
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
    try:
        return KEYS[key](value.raw)
    except NotAllowedError as error:
        shown = "the value" if key in SECRET_KEYS else show(value.raw)
        message = f"{key}: {shown} from {value.origin} is not allowed; give {error}"
        raise ConfigError(message, metadata={"key": key}) from error


def _build(values: Mapping[str, Value], given: Layer) -> Config:
    tables: dict[str, dict[str, object]] = {table: {} for table in TABLES}
    for key, value in values.items():
        table, _, name = key.partition(".")
        if key not in CREDENTIAL_KEYS:
            tables[table][name] = value
    credentials = _credentials(values, given)
    if credentials is not None:
        tables["storage"]["credentials"] = credentials
    return msgspec.convert(tables, Config)


def _credentials(values: Mapping[str, Value], given: Layer) -> Credentials | None:
    present = [key for key in CREDENTIAL_KEYS if values.get(key)]
    if not present:
        return None
    for key in (_ACCESS_KEY_ID, _SECRET_ACCESS_KEY):
        if key not in present:
            message = f"{key} is missing, though {present[0]} is given by {given[present[0]].origin}; give both or none"
            raise ConfigError(message, metadata={"key": key})
    return Credentials(*(str(values.get(key, "")) for key in CREDENTIAL_KEYS))


def _check_storage(storage: StorageConfig, given: Layer) -> None:
    try:
        resolve(storage)
    except ConfigError as error:
        key = error.metadata["key"]
        origin = given[key].origin if key in given else DEFAULT
        raise ConfigError(f"{error.message} (from {origin})", metadata=error.metadata) from error
