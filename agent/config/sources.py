"""Where values come from: the command line, the environment, systemd credentials and agent.toml."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping

import msgspec

from agent.config.keys import KEYS, PROVIDERS, TABLES, all_keys, is_provider_name, reader_of, table_of
from agent.config.values import Raw, show
from agent.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PATH = "/etc/gpusnap/agent.toml"

# The variables of the first system.
_FIRST_SYSTEM = {
    "STORAGE_PROVIDER": "storage.provider",
    "STORAGE_BUCKET": "storage.bucket",
    "STORAGE_PREFIX": "storage.prefix",
    "STORAGE_ENDPOINT": "storage.endpoint",
    "STORAGE_REGION": "storage.region",
    "STORAGE_PROFILE": "storage.profile",
    "STORAGE_ACCESS_KEY_ID": "storage.access_key_id",
    "STORAGE_SECRET_ACCESS_KEY": "storage.secret_access_key",
    "STORAGE_SESSION_TOKEN": "storage.session_token",
}
_SYSTEMD_CREDENTIALS = {
    "storage_access_key_id": "storage.access_key_id",
    "storage_secret_access_key": "storage.secret_access_key",
    "storage_session_token": "storage.session_token",
}
# The first variable that is set counts, as in the AWS tools.
_AWS = (
    ("AWS_ACCESS_KEY_ID", "storage.access_key_id"),
    ("AWS_SECRET_ACCESS_KEY", "storage.secret_access_key"),
    ("AWS_SESSION_TOKEN", "storage.session_token"),
    ("AWS_PROFILE", "storage.profile"),
    ("AWS_REGION", "storage.region"),
    ("AWS_DEFAULT_REGION", "storage.region"),
    ("AWS_ENDPOINT_URL_S3", "storage.endpoint"),
    ("AWS_ENDPOINT_URL", "storage.endpoint"),
)
_SECRET_FILE_LIMIT = 16384
_PROVIDER_VARIABLE = re.compile(r"GPUSNAP_PROVIDERS__([A-Z0-9_]+?)__([A-Z_]+)")


class Given(msgspec.Struct, frozen=True):
    """A value as it was given, and where."""

    raw: Raw
    origin: str


Layer = Mapping[str, Given]
"""What one source gives, by "<table>.<key>"."""


def from_flags(flags: Mapping[str, str]) -> Layer:
    """Takes dotted keys of the command line.

    Raises:
        ConfigError: a key is unknown.
    """
    _check_known(flags, "the command line")
    return {key: Given(raw, "command line") for key, raw in flags.items()}


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Takes ``GPUSNAP_<TABLE>__<KEY>``, and below them the variables of the first system, where empty means unset.

    Raises:
        ConfigError: a variable names an unknown key.
    """
    layer = {key: Given(environ[name], _variable(name)) for name, key in _FIRST_SYSTEM.items() if environ.get(name)}
    variables = {f"GPUSNAP_{key.replace('.', '__').upper()}": key for key in KEYS}
    for name, raw in environ.items():
        key = variables.get(name) or _provider_key(name)
        if key:
            layer[key] = Given(raw, _variable(name))
        elif name.startswith("GPUSNAP_") and "__" in name:
            message = f"environment variable {show(name)} names no key{_meant(name, variables)}"
            raise ConfigError(message, hint="correct or unset the variable")
    return layer


def from_systemd(environ: Mapping[str, str]) -> Layer:
    """Takes the credentials that systemd put into ``$CREDENTIALS_DIRECTORY``.

    Raises:
        ConfigError: one cannot be read.
    """
    layer = {}
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    for name, key in _SYSTEMD_CREDENTIALS.items() if directory else ():
        try:
            with open(os.path.join(directory, name), "rb") as file:
                content = file.read(_SECRET_FILE_LIMIT).decode().strip()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"systemd credential {name} cannot be read: {one_line(error)}") from error
        layer[key] = Given(content, f"systemd credential {name}")
    return layer


def from_aws(environ: Mapping[str, str]) -> Layer:
    """Takes the variables of the AWS tools; they only fill in what nothing else says."""
    layer: dict[str, Given] = {}
    for name, key in _AWS:
        if environ.get(name):
            layer.setdefault(key, Given(environ[name], _variable(name)))
    return layer


def from_file(path: str | None) -> Layer:
    """Reads agent.toml: the one given, or the usual one if it exists.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown table or key.
    """
    try:
        with open(path or DEFAULT_PATH, "rb") as file:
            content = tomllib.loads(file.read().decode())
    except FileNotFoundError as error:
        if path is None:
            return {}
        raise ConfigError(f"configuration file {show(path)} does not exist", hint="name an existing file") from error
    except OSError as error:
        why = error.strerror or one_line(error)
        raise ConfigError(f"configuration file {show(path or DEFAULT_PATH)} cannot be read: {why}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"configuration file {show(path or DEFAULT_PATH)}: {one_line(error)}") from error
    return _from_tables(content, path or DEFAULT_PATH)


def one_line(error: BaseException) -> str:
    """Writes an error's message on one line."""
    return " ".join(ascii(str(error))[1:-1].split())[:200] or type(error).__name__


def _provider_key(variable: str) -> str:
    """Returns the key of a table [providers.NAME] that a variable stands for; empty if for none."""
    match = _PROVIDER_VARIABLE.fullmatch(variable)
    key = f"{PROVIDERS}.{match[1]}.{match[2]}".lower() if match else ""
    return key if key and reader_of(key) else ""


def _from_tables(content: Mapping[str, object], path: str) -> Layer:
    layer: dict[str, Given] = {}
    for table, entries in content.items():
        if table not in TABLES:
            raise ConfigError(f"{path}: unknown table [{show(table)[1:-1]}]{_meant(table, TABLES)}")
        if not isinstance(entries, dict):
            raise ConfigError(f"{path}: {table} is a table: write [{table}] and its keys below")
        if table == PROVIDERS:
            for name, own in entries.items():
                layer |= _from_provider(name, own, path)
        else:
            layer |= _from_table(table, entries, path)
    return layer


def _from_provider(name: str, entries: object, path: str) -> Layer:
    if not is_provider_name(name):
        allowed = "up to 32 lower-case letters, digits, hyphens and underscores, and not storage"
        raise ConfigError(f"{path}: {PROVIDERS}.{show(name)[1:-1]} is not a name; give {allowed}")
    if not isinstance(entries, dict):
        raise ConfigError(f"{path}: {PROVIDERS}.{name} is a table: write [{PROVIDERS}.{name}] and its keys below")
    if not entries:
        raise ConfigError(f"{path}: [{PROVIDERS}.{name}] is empty; give its provider and its bucket")
    return _from_table(f"{PROVIDERS}.{name}", entries, path)


def _from_table(table: str, entries: Mapping[str, Raw], path: str) -> Layer:
    _check_known([f"{table}.{key}" for key in entries], path)
    return {f"{table}.{key}": Given(raw, path) for key, raw in entries.items()}


def _check_known(keys: Iterable[str], origin: str) -> None:
    for key in keys:
        if reader_of(key) is None:
            table, _, name = table_of(key).partition(".")
            names = [name] if table == PROVIDERS and is_provider_name(name) else []
            raise ConfigError(f"{origin}: unknown key {show(key)[1:-1]}{_meant(key, all_keys(names))}")


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:100], list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _variable(name: str) -> str:
    return f"environment variable {name}"
