"""Where values come from, and what is refused."""

from __future__ import annotations

import enum
import os
import string
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.keys import KEYS, PROVIDER_KEYS, PROVIDERS, SECRET_KEYS, TABLES
from agent.config.load import LoadedConfig, load
from agent.config.model import MIB, Config, Credentials, EngineChoice, Provider, StorageConfig
from agent.config.report import lines, plain_values
from agent.errors import ConfigError


def _load(tmp_path: Path, toml: str = "", environ: dict[str, str] | None = None, **flags: str) -> LoadedConfig:
    path = tmp_path / "agent.toml"
    path.write_text(toml)
    return load(str(path), environ or {}, {key.replace("__", "."): value for key, value in flags.items()})


def test_nothing_given_gives_the_defaults() -> None:
    loaded = load(None, {}, {})
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {"default"}


def test_every_attribute_of_the_model_is_a_key() -> None:
    attributes = {
        f"{table.name}.{attribute.name}"
        for table in msgspec.structs.fields(Config)
        if table.name != PROVIDERS
        for attribute in msgspec.structs.fields(table.type)
    }
    credentials = {f"storage.{attribute.name}" for attribute in msgspec.structs.fields(Credentials)}
    assert set(KEYS) == (attributes - {"storage.credentials"}) | credentials
    own = {key.partition(".")[2] for key in KEYS if key.startswith("storage.")}
    assert set(PROVIDER_KEYS) == own - {"per_request"}


def test_every_default_is_allowed() -> None:
    for key, value in plain_values(Config()).items():
        raw = value.value if isinstance(value, enum.Enum) else list(value) if isinstance(value, tuple) else value
        assert KEYS[key](raw) == value


def test_the_command_line_stands_above_the_environment_above_the_file(tmp_path: Path) -> None:
    toml = '[storage]\nbucket = "file"\nprefix = "file"\nregion = "file"\n'
    environ = {"GPUSNAP_STORAGE__BUCKET": "own", "STORAGE_BUCKET": "first", "STORAGE_PREFIX": "first"}
    loaded = _load(tmp_path, toml, environ, storage__bucket="flag")
    assert (loaded.config.storage.bucket, loaded.origins["storage.bucket"]) == ("flag", "command line")
    assert loaded.config.storage.prefix == "first"
    assert loaded.origins["storage.prefix"] == "environment variable STORAGE_PREFIX"
    assert loaded.config.storage.region == "file"
    assert loaded.origins["storage.region"] == str(tmp_path / "agent.toml")
    assert loaded.origins["storage.endpoint"] == "default"
    assert _load(tmp_path, toml, environ).config.storage.bucket == "own"


def test_every_key_can_be_given_by_the_environment() -> None:
    for key in KEYS:
        variable = f"GPUSNAP_{key.replace('.', '__').upper()}"
        with pytest.raises(ConfigError) as caught:
            load(None, {variable: "a\nb"}, {})
        assert str(caught.value).startswith(f"{key}: ")
        assert f"from environment variable {variable} is not allowed" in str(caught.value)


def test_text_is_read_as_its_type() -> None:
    environ = {
        "GPUSNAP_AGENT__LISTEN": "unix:/tmp/a.sock, [::1]:0",
        "GPUSNAP_AGENT__METRICS_LISTEN": "",
        "GPUSNAP_AGENT__DRAIN_SECONDS": "2.5",
        "GPUSNAP_AGENT__RESUME_ON_START": "false",
        "GPUSNAP_TRANSFER__STAGING_SIZE": "1 GiB",
        "GPUSNAP_TRANSFER__CONNECTIONS": "8",
        "GPUSNAP_TRANSFER__ENGINE": "s5cmd",
        "GPUSNAP_STORAGE__PREFIX": "/a/b/",
        "GPUSNAP_SCAN__MODEL_SUFFIXES": ".BIN,.pt",
    }
    config = load(None, environ, {}).config
    assert config.agent.listen == ("unix:/tmp/a.sock", "[::1]:0")
    assert config.agent.metrics_listen == ""
    assert config.agent.drain_seconds == 2.5
    assert config.agent.resume_on_start is False
    assert config.transfer.staging_size == 1024 * MIB
    assert config.transfer.connections == 8
    assert config.transfer.engine is EngineChoice.S5CMD
    assert config.storage.prefix == "a/b"
    assert config.scan.model_suffixes == (".bin", ".pt")


def test_the_first_system_s_variables_configure_a_store_alone() -> None:
    environ = {
        "STORAGE_PROVIDER": "r2",
        "STORAGE_BUCKET": "data",
        "STORAGE_ENDPOINT": "https://0a1b.r2.cloudflarestorage.com",
        "STORAGE_REGION": "",
        "STORAGE_ACCESS_KEY_ID": "id",
        "STORAGE_SECRET_ACCESS_KEY": "secret",
    }
    storage = load(None, environ, {}).config.storage
    assert storage.provider is Provider.R2
    assert storage.credentials == Credentials("id", "secret")


def test_systemd_credentials_stand_between_the_environment_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "storage_access_key_id").write_text("systemd-id\n")
    (tmp_path / "storage_secret_access_key").write_text("systemd-secret\n")
    toml = '[storage]\naccess_key_id = "file"\nsecret_access_key = "file"\nsession_token = "file"\n'
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "AWS_ACCESS_KEY_ID": "aws", "AWS_SESSION_TOKEN": "aws"}
    loaded = _load(tmp_path, toml, environ)
    assert loaded.config.storage.credentials == Credentials("systemd-id", "systemd-secret")
    assert loaded.origins["storage.access_key_id"] == "systemd credential storage_access_key_id"
    environ |= {"STORAGE_ACCESS_KEY_ID": "env", "STORAGE_SECRET_ACCESS_KEY": "env"}
    assert _load(tmp_path, toml, environ).config.storage.credentials == Credentials("env", "env")
    environ |= {"STORAGE_SESSION_TOKEN": "env-token"}
    assert _load(tmp_path, toml, environ).config.storage.credentials == Credentials("env", "env", "env-token")
    assert _load(tmp_path, toml).config.storage.credentials == Credentials("file", "file", "file")


def test_aws_variables_fill_in_what_is_not_given(tmp_path: Path) -> None:
    environ = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
        "AWS_PROFILE": "work",
    }
    storage = load(None, environ, {}).config.storage
    assert storage.credentials == Credentials("id", "secret", "token")
    assert (storage.region, storage.endpoint, storage.profile) == ("eu-west-1", "http://127.0.0.1:9000", "work")
    chosen = _load(tmp_path, '[storage]\nprofile = "own"\nregion = "us-east-2"\n', environ).config.storage
    assert (chosen.credentials, chosen.profile, chosen.region) == (None, "own", "us-east-2")
    foreign = _load(tmp_path, '[storage]\nprovider = "b2"\nregion = "us-west-004"\n', environ).config.storage
    assert (foreign.region, foreign.endpoint) == ("us-west-004", "")
    assert foreign.credentials == Credentials("id", "secret", "token")
    local = _load(tmp_path, '[storage]\nprovider = "local"\nendpoint = "/mnt/a"\n', environ).config.storage
    assert (local.credentials, local.region, local.endpoint) == (None, "", "/mnt/a")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[agent", "agent.toml': Expected"),
        ("[agnet]\n", "agent.toml: unknown table [agnet]; did you mean agent?"),
        ("agent = 1", "agent is a table: write [agent] and its keys below"),
        ("[transfer]\nconections = 1", "unknown key transfer.conections; did you mean transfer.connections?"),
        ("[transfer]\nconnections = 0", "transfer.connections: 0 from"),
        ("[transfer]\nconnections = 0", "give a whole number from 1 to 1024"),
        ("[transfer]\nconnections = true", "transfer.connections: True from"),
        ('[transfer]\nstaging_size = "1 banana"', "give a size from 160MiB to 1TiB, such as 1600MiB"),
        ('[transfer]\nengine = "fast"', "transfer.engine: 'fast' from"),
        ('[transfer]\nengine = "fast"', "give one of auto, s5cmd, stream"),
        ("[transfer]\nretry_seconds = nan", "give seconds from 0 to 86400"),
        ('[agent]\nlisten = "0.0.0.0:7447"', "a host on loopback"),
        ('[agent]\nlisten = "127.0.0.1:77777"', "a port from 0 to 65535"),
        ('[agent]\nlisten = "127.0.0.1"', "a port from 0 to 65535"),
        ('[agent]\nlisten = "unix:agent.sock"', "an absolute path"),
        ("[agent]\nlisten = []", "at least 1 item"),
        ("[agent]\nlisten = 7447", "give a list"),
        ('[agent]\nlisten = ["[::1]:1", "[::1]:1"]', "each item once"),
        ('[agent]\nmetrics_listen = "192.0.2.1:9447"', "a host on loopback"),
        ('[agent]\nworkspace_roots = ["workspace"]', "for each item an absolute path"),
        ('[agent]\nlog_level = "loud"', "give one of debug, info, warning, error"),
        ('[storage]\nprovider = "gcs"', "give one of s3, r2, b2, wasabi, local, custom"),
        ('[storage]\nprovider = "r2"\nbucket = "data"', "storage.endpoint: is missing; give a URL such as https://ACC"),
        ('[storage]\nprovider = "local"', "storage.endpoint: is missing; give an absolute folder"),
        ('[storage]\nbucket = "a/b"', "storage.bucket: 'a/b' is not allowed; give the bucket's name alone"),
        ('[storage]\naccess_key_id = "a"', "storage.secret_access_key is missing, though storage.access_key_id is"),
        ('providers = "b2"', "providers is a table: write [providers] and its keys below"),
        ('[providers]\nb2 = "x"', "providers.b2 is a table: write [providers.b2] and its keys below"),
        ('[providers."B 2"]', "providers.B 2 is not a name; give up to 32 lower-case letters"),
        ('[providers.b2]\nbukcet = "a"', "unknown key providers.b2.bukcet; did you mean providers.b2.bucket?"),
        ('[providers.b2]\nper_request = "allow"', "unknown key providers.b2.per_request"),
        ("[providers.b2]\n", "[providers.b2] is empty; give its provider and its bucket"),
        ("[providers.b2]\nregion = 'a'", "providers.b2.bucket: is missing; a table of [providers] names a store"),
        ('[providers.a]\nprovider = "local"', "providers.a.endpoint: is missing; a table of [providers] names a store"),
        ('[providers.a]\nprovider = "b2"\nbucket = "data"', "providers.a.region: is missing; give the bucket's region"),
        ('[providers.a]\nbucket = "a/b"', "providers.a.bucket: 'a/b' is not allowed"),
        (
            '[providers.a]\naccess_key_id = "i"',
            "providers.a.secret_access_key is missing, though providers.a.access_key_",
        ),
        ('[scan]\nmodel_suffixes = ["bin"]', "a name's ending such as .bin"),
        ("[scan]\nlarge_file_size = 1", "give a size from 64KiB to 32MiB"),
    ],
)
def test_refuses_in_one_line(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, toml)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({"GPUSNAP_STORAGE__BUKET": "a"}, {}, "did you mean GPUSNAP_STORAGE__BUCKET?"),
        (
            {"STORAGE_PROVIDER": "S3"},
            {},
            "'S3' from environment variable STORAGE_PROVIDER is not allowed; give one of s3",
        ),
        ({"STORAGE_BUCKET": "a b"}, {}, "(from environment variable STORAGE_BUCKET)"),
        ({}, {"storage.buckets": "a"}, "the command line: unknown key storage.buckets; did you mean storage.bucket?"),
        ({}, {"agent.listen": ""}, "agent.listen: '' from command line is not allowed; give at least 1 item"),
        ({"CREDENTIALS_DIRECTORY": "/proc/self/mem"}, {}, "systemd credential storage_access_key_id cannot be read"),
    ],
)
def test_refuses_text_in_one_line(environ: dict[str, str], flags: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, environ, flags)
    assert message in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml' does not exist"):
        load(str(tmp_path / "agent.toml"), {}, {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(str(tmp_path), {}, {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="binary'"):
        load(str(tmp_path / "binary"), {}, {})


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    environ = {
        "STORAGE_ACCESS_KEY_ID": "public-id",
        "STORAGE_SECRET_ACCESS_KEY": "hidden",
        "STORAGE_SESSION_TOKEN": "hidden",
    }
    loaded = _load(tmp_path, environ=environ)
    report = "\n".join(lines(loaded))
    assert "public-id" in report
    assert "hidden" not in report + repr(loaded)
    for key in SECRET_KEYS:
        with pytest.raises(ConfigError) as caught:
            load(None, {f"GPUSNAP_{key.replace('.', '__').upper()}": "hidden\n"}, {})
        assert "hidden" not in str(caught.value)


def test_the_report_names_every_key_and_is_toml_that_loads_again(tmp_path: Path) -> None:
    environ = {
        "STORAGE_BUCKET": "data",
        "GPUSNAP_AGENT__WORKSPACE_ROOTS": "/a,/b",
        "GPUSNAP_TRANSFER__CONNECTIONS": "7",
    }
    loaded = _load(tmp_path, environ=environ)
    report = lines(loaded)
    assert [line.split(" = ")[0] for line in report[:-1]] == list(KEYS)
    assert report[-1] == "# storage: the endpoint of AWS, region us-east-1, virtual-hosted style"
    assert any(line.endswith("# environment variable STORAGE_BUCKET") for line in report)
    assert _load(tmp_path, "\n".join(report)).config == loaded.config


PROVIDERS_TOML = """
[storage]
provider = "b2"
bucket = "data"
region = "us-west-004"

[providers.r2]
provider = "r2"
bucket = "data-r2"
endpoint = "https://account.r2.cloudflarestorage.com"
profile = "r2"

[providers.cheap-one]
bucket = "cheap"
region = "eu-west-1"
access_key_id = "file-id"
secret_access_key = "file-secret"
session_token = "file-token"
"""


def test_further_stores_have_tables_of_their_own(tmp_path: Path) -> None:
    environ = {
        "GPUSNAP_PROVIDERS__R2__PREFIX": "/here/",
        "AWS_ACCESS_KEY_ID": "aws-id",
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "AWS_REGION": "aws-region",
    }
    loaded = _load(tmp_path, PROVIDERS_TOML, environ)
    assert loaded.config.providers == {
        "cheap-one": StorageConfig(
            Provider.S3, "cheap", region="eu-west-1", credentials=Credentials("file-id", "file-secret", "file-token")
        ),
        "r2": StorageConfig(
            Provider.R2, "data-r2", "here", endpoint="https://account.r2.cloudflarestorage.com", profile="r2"
        ),
    }
    assert loaded.origins["providers.r2.prefix"] == "environment variable GPUSNAP_PROVIDERS__R2__PREFIX"
    assert loaded.origins["providers.r2.region"] == "default"
    report = "\n".join(lines(loaded))
    assert 'providers.cheap-one.access_key_id = "file-id"' in report
    assert "file-secret" not in report + repr(loaded)
    assert "file-token" not in report + repr(loaded)


def test_a_store_can_be_given_by_variables_alone(tmp_path: Path) -> None:
    environ = {
        "GPUSNAP_PROVIDERS__MY_B2__PROVIDER": "b2",
        "GPUSNAP_PROVIDERS__MY_B2__BUCKET": "data",
        "GPUSNAP_PROVIDERS__MY_B2__REGION": "us-west-004",
        "GPUSNAP_PROVIDERS__MY_B2__ACCESS_KEY_ID": "id",
        "GPUSNAP_PROVIDERS__MY_B2__SECRET_ACCESS_KEY": "secret",
    }
    providers = _load(tmp_path, environ=environ).config.providers
    wanted = StorageConfig(Provider.B2, "data", region="us-west-004", credentials=Credentials("id", "secret"))
    assert providers == {"my_b2": wanted}
    with pytest.raises(ConfigError, match="GPUSNAP_PROVIDERS__MY_B2__PER_REQUEST' names no key"):
        _load(tmp_path, environ={"GPUSNAP_PROVIDERS__MY_B2__PER_REQUEST": "allow"})
    token = {**environ, "GPUSNAP_PROVIDERS__MY_B2__SESSION_TOKEN": "token"}
    file = "[providers.my_b2]\nsession_token = 'of-another-key'\n"
    assert _load(tmp_path, file, environ).config.providers == {"my_b2": wanted}
    stored = _load(tmp_path, file, token).config.providers["my_b2"].credentials
    assert stored == Credentials("id", "secret", "token")


_NAMES = st.sampled_from([*KEYS, *TABLES, "providers.a", "providers.a.bucket", "storage.bukcet", "x"]) | st.text(
    string.ascii_letters + "._", max_size=20
)
_SCALARS = st.one_of(
    st.text(max_size=20).map(lambda text: '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'),
    st.integers().map(str),
    st.floats().map(repr),
    st.sampled_from(["true", "[]", "{}", '["", "a"]', "[1, [2]]", "1979-05-27T07:32:00Z", "inf", "nan", "'''\n'''"]),
)


@given(st.lists(st.tuples(_NAMES, _SCALARS), max_size=5).map(lambda pairs: "\n".join(f"{k} = {v}" for k, v in pairs)))
def test_any_toml_loads_or_is_refused(toml: str) -> None:
    _loads_or_is_refused(toml.encode())


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_load_or_are_refused(content: bytes) -> None:
    _loads_or_is_refused(content)


@pytest.mark.parametrize("number", ["9" * 400, "0x" + "f" * 5000, "nan", "-inf", "1e400"])
def test_numbers_beyond_all_bounds_are_refused(number: str, tmp_path: Path) -> None:
    for key in ("agent]\ndrain_seconds", "transfer]\nconnections", "transfer]\nstaging_size", "storage]\nbucket"):
        with pytest.raises(ConfigError) as caught:
            _load(tmp_path, f"[{key} = {number}\n")
        assert len(str(caught.value)) < 500


def test_deep_nesting_is_refused() -> None:
    _loads_or_is_refused(b"agent = " + b"[" * 20000)


@given(
    st.dictionaries(
        st.sampled_from(
            [f"GPUSNAP_{key.replace('.', '__').upper()}" for key in KEYS] + ["STORAGE_PROVIDER", "AWS_PROFILE"]
        )
        | st.text(string.ascii_uppercase + "_", max_size=8).map(lambda text: "GPUSNAP_" + text),
        st.one_of(
            st.text(max_size=20),
            st.binary(max_size=20).map(os.fsdecode),
            st.sampled_from(
                ["0", "-1", "1e9", "9" * 30, "10MiB", "1TiB", "s3", "local", "unix:/", ":1", "/", "localhost:1"]
            ),
        ),
        max_size=4,
    )
)
def test_any_environment_loads_or_is_refused(environ: dict[str, str]) -> None:
    _judge(None, environ)


def _loads_or_is_refused(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        _judge(file.name, {})


def _judge(path: str | None, environ: dict[str, str]) -> None:
    try:
        shown = lines(load(path, environ, {}))
    except ConfigError as error:
        shown = [str(error)]
    assert all(line.isprintable() for line in shown)
