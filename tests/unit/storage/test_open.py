"""Which store and engine a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.model import EngineChoice, Provider, StorageConfig, TransferConfig
from agent.errors import ConfigError, EngineUnavailableError, StorageNotConfiguredError
from agent.storage.open import engine_name, engine_reason, open_engine, open_store

CUSTOM = StorageConfig(provider=Provider.CUSTOM, bucket="bucket", endpoint="http://127.0.0.1:1", prefix="a/b")


@pytest.mark.parametrize("storage", [StorageConfig(), StorageConfig(provider=Provider.LOCAL)])
def test_a_storage_that_is_not_configured_is_refused(storage: StorageConfig) -> None:
    with pytest.raises(StorageNotConfiguredError, match=r"\[storage\]"):
        open_store(storage)
    with pytest.raises(StorageNotConfiguredError, match=r"\[storage\]"):
        open_engine(storage, TransferConfig(), "/nowhere")


def test_nothing_is_contacted_when_a_store_is_opened(tmp_path: Path) -> None:
    assert open_store(CUSTOM).location == "s3://bucket/a/b"
    local = StorageConfig(provider=Provider.LOCAL, endpoint=str(tmp_path / "missing"), prefix="a/b")
    assert open_store(local).location == str(tmp_path / "missing/a/b")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("prefix", ["a\\b", "a//b", "../b", "a/./b"])
@pytest.mark.parametrize("provider", [Provider.CUSTOM, Provider.LOCAL])
def test_a_prefix_that_cannot_be_one_is_refused(provider: Provider, prefix: str, tmp_path: Path) -> None:
    endpoint = str(tmp_path) if provider is Provider.LOCAL else CUSTOM.endpoint
    storage = StorageConfig(provider=provider, bucket="bucket", endpoint=endpoint, prefix=prefix)
    with pytest.raises(ConfigError, match="prefix"):
        open_store(storage)
    with pytest.raises(ConfigError, match="prefix"):
        open_engine(storage, TransferConfig(), str(tmp_path))


def test_a_missing_program_is_found_out_at_once(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="/nowhere/s5cmd"):
        open_engine(CUSTOM, TransferConfig(s5cmd_path="/nowhere/s5cmd"), str(tmp_path))


def test_the_choice_is_explained() -> None:
    assert engine_reason(CUSTOM, TransferConfig()) == "s5cmd is the default for S3 stores"
    assert engine_reason(CUSTOM, TransferConfig(engine=EngineChoice.S5CMD)) == '[transfer] engine = "s5cmd"'
    local = StorageConfig(provider=Provider.LOCAL, endpoint="/x")
    assert engine_reason(local, TransferConfig(engine=EngineChoice.S5CMD)) == "the store is a local folder"


@pytest.mark.parametrize(
    ("choice", "name"), [(EngineChoice.AUTO, "s5cmd"), (EngineChoice.S5CMD, "s5cmd"), (EngineChoice.STREAM, "stream")]
)
def test_the_engine_is_named_as_it_is_opened(choice: EngineChoice, name: str, tmp_path: Path) -> None:
    transfer = TransferConfig(engine=choice)
    local = StorageConfig(provider=Provider.LOCAL, endpoint=str(tmp_path))
    for storage, expected in ((CUSTOM, name), (local, "directory")):
        engine = open_engine(storage, transfer, str(tmp_path))
        assert engine.name == engine_name(storage, transfer) == expected
        engine.close()
