"""Which store and engine a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.model import EngineChoice, Provider, StorageConfig, TransferConfig
from agent.errors import ConfigError, EngineUnavailableError, StorageNotConfiguredError
from agent.events import Direction, Measurement
from agent.storage.choice import Choice
from agent.storage.open import account_of, explain_connections, foresee, open_engine, open_store

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
    transfer = TransferConfig(engine=EngineChoice.S5CMD, s5cmd_path="/nowhere/s5cmd")
    with pytest.raises(EngineUnavailableError, match="/nowhere/s5cmd"):
        open_engine(CUSTOM, transfer, str(tmp_path))


@pytest.mark.parametrize("choice", list(EngineChoice))
def test_the_engine_is_opened_as_it_is_foreseen(choice: EngineChoice, tmp_path: Path) -> None:
    transfer = TransferConfig(engine=choice)
    local = StorageConfig(provider=Provider.LOCAL, endpoint=str(tmp_path))
    reason = f'[transfer] engine = "{choice.value}"'
    for storage, expected in ((CUSTOM, Choice(choice.value, reason)), (local, Choice("directory", "local folder"))):
        foreseen = foresee(storage, transfer, Direction.UPLOAD)
        assert foreseen.engine == expected.engine
        engine = open_engine(storage, transfer, str(tmp_path), Direction.UPLOAD)
        account = account_of(engine, storage, transfer)
        engine.close()
        if foreseen.engine == "auto":
            assert "not measured yet" in foreseen.reason
            assert (account.engine, account.reason) == ("stream", "too little to compare engines")
        else:
            assert expected.reason in foreseen.reason
            assert (account.engine, account.reason) == (foreseen.engine, foreseen.reason)


@pytest.mark.parametrize(("direction", "engine"), [(Direction.UPLOAD, "s5cmd"), (Direction.DOWNLOAD, "stream")])
def test_what_was_measured_is_taken(direction: Direction, engine: str, tmp_path: Path) -> None:
    measured = [
        Measurement("s5cmd", Direction.UPLOAD, 2e8, 1),
        Measurement("stream", Direction.UPLOAD, 1e8, 1),
        Measurement("s5cmd", Direction.DOWNLOAD, 1e8, 1),
        Measurement("stream", Direction.DOWNLOAD, 2e8, 1),
    ]
    foreseen = foresee(CUSTOM, TransferConfig(), direction, measured)
    opened = open_engine(CUSTOM, TransferConfig(), str(tmp_path), direction, measured)
    account = account_of(opened, CUSTOM, TransferConfig())
    opened.close()
    assert foreseen.engine == opened.name == account.engine == engine
    assert "200 MB/s" in account.reason
    assert account.reason == foreseen.reason
    assert account.measurements == ()


def test_the_number_of_connections_is_explained(tmp_path: Path) -> None:
    local = StorageConfig(provider=Provider.LOCAL, endpoint=str(tmp_path))
    assert explain_connections(CUSTOM, TransferConfig()) == "the default; [transfer] connections would say otherwise"
    assert explain_connections(CUSTOM, TransferConfig(connections=32)) == "[transfer] connections = 32"
    assert "in which 16 files are written or read at once" in explain_connections(local, TransferConfig())
    assert "in which 3 files" in explain_connections(local, TransferConfig(connections=3))
