"""Configurations that say anything: values of the right kind, or one line that names what is wrong."""

from __future__ import annotations

import json
import os
import tempfile

from hypothesis import strategies as st

from agent.config.keys import KEYS, TABLES
from agent.config.load import load
from agent.config.model import Config
from agent.config.report import lines
from agent.errors import ConfigError
from tests.support.fuzz import fuzz

LINE_CHARACTERS = 1000
"""A complaint is one line that a person reads."""


def judge(content: bytes, environ: dict[str, str], flags: dict[str, str]) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        file.write(content)
        file.flush()
        try:
            loaded = load(file.name, environ, flags)
        except ConfigError as error:
            assert error.message.isprintable()
            assert len(error.message) < LINE_CHARACTERS
            assert error.hint.isprintable()
            return
    assert isinstance(loaded.config, Config)
    assert all(line.isprintable() for line in lines(loaded))


def toml(value: object) -> str:
    """Writes a value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str) and value.startswith("raw:"):
        return value.removeprefix("raw:")
    return json.dumps(value)


ODD = ["raw:" + text for text in (
    "1979-05-27", "07:32:00", "0x" + "f" * 5000, "9" * 400, "-" + "9" * 400, "9" * 5000, "1e400", "-inf", "nan", "0.1",
    "'''a\nb'''", '"\\u0000"', '"\\ud800"', "true", "0b1", "1_000", "1e3", "+5", "1.5e308",
)]  # fmt: skip
SENSIBLE = st.sampled_from(
    ["10MiB", "384MiB", "0", "64", "1.5", "s3", "r2", "b2", "local", "custom", "auto", "s5cmd", "stream", "/a",
     "unix:/a", "127.0.0.1:0", "http://127.0.0.1:1", "https://h", "eu-west-1", "a/b", "a//b", "..", ".bin", "", "info",
     "bucket", "[::1]:7447", "localhost:99999", "unix:" + "/a" * 60, "https://s3.us-west-004.backblazeb2.com", "http://[",
     "http://h:x"]
)  # fmt: skip
SCALARS = st.one_of(SENSIBLE, st.sampled_from(ODD), st.booleans(), st.integers(), st.floats(), st.text(max_size=30))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.one_of(
    st.sampled_from(sorted(KEYS)), st.builds("{}.{}".format, st.sampled_from(TABLES), st.text(max_size=9))
)


def document(given: dict[str, object]) -> bytes:
    tables: dict[str, list[str]] = {}
    for name, value in given.items():
        table, _, key = name.partition(".")
        tables.setdefault(table, []).append(f"{json.dumps(key)} = {toml(value)}")
    return "\n".join(f"[{table}]\n" + "\n".join(rows) for table, rows in tables.items()).encode(errors="replace")


@fuzz(2000, given_values=st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_toml(given_values: dict[str, object]) -> None:
    judge(document(given_values), {}, {})


CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode(errors="replace")),
    st.builds(
        lambda piece, count: piece * count,
        st.sampled_from([b"[", b"a.", b"[a.", b"a=[", b"a={b=", b'"']),
        st.integers(1, 5000),
    ),
)


@fuzz(2000, content=CONTENTS)
def test_any_bytes_as_a_file(content: bytes) -> None:
    judge(content, {}, {})


TEXTS = st.one_of(
    SENSIBLE, st.text(max_size=30), st.binary(max_size=20).map(os.fsdecode), st.sampled_from(["9" * 400, "9" * 500])
)
VARIABLES = st.one_of(
    st.sampled_from(sorted(KEYS)).map(lambda key: f"GPUSNAP_{key.replace('.', '__').upper()}"),
    st.sampled_from(["STORAGE_PROVIDER", "STORAGE_BUCKET", "STORAGE_ENDPOINT", "STORAGE_REGION", "STORAGE_PREFIX"]),
    st.sampled_from(["AWS_PROFILE", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"]),
    st.sampled_from(["CREDENTIALS_DIRECTORY", "GPUSNAP_", "GPUSNAP_A__", "GPUSNAP_AGENT__LISTEN__X"]),
)


@fuzz(
    2000,
    environ=st.dictionaries(VARIABLES, TEXTS.filter(lambda text: "\0" not in text), max_size=5),
    flags=st.dictionaries(st.one_of(st.sampled_from(sorted(KEYS)), st.text(max_size=9)), TEXTS, max_size=2),
)
def test_any_environment_and_flags(environ: dict[str, str], flags: dict[str, str]) -> None:
    judge(b"", environ, flags)
