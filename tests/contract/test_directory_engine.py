"""What only the engine of a folder promises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.config.model import Provider, StorageConfig, TransferConfig
from agent.errors import BucketNotFoundError
from agent.storage.directory import INCOMING, LEFTOVER_SECONDS
from agent.storage.engine import TransferEngine
from agent.storage.open import account_of, open_engine, open_store
from agent.storage.outgoing_file import OutgoingFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def storage(folder: Path) -> StorageConfig:
    return StorageConfig(provider=Provider.LOCAL, endpoint=str(folder), prefix="models")


def outgoing_file(engine: TransferEngine, data: bytes) -> OutgoingFile:
    outgoing = engine.outgoing(len(data))
    assert isinstance(outgoing, OutgoingFile)
    outgoing.write(data)
    return outgoing


def test_uploads_are_renamed_and_not_copied(storage: StorageConfig, folder: Path, tmp_path: Path) -> None:
    engine = open_engine(storage, TransferConfig(), str(tmp_path / "no-staging-needed"))
    assert engine.name == "directory"
    assert account_of(engine, storage, TransferConfig()).reason == "the store is a local folder"
    outgoing = outgoing_file(engine, b"12345")
    inode = os.stat(outgoing.path).st_ino
    engine.upload(outgoing, "chunks/ab/object").result(30.0)
    final = folder / "models/chunks/ab/object"
    assert final.stat().st_ino == inode
    assert final.read_bytes() == b"12345"
    engine.close()


def test_a_file_that_is_cut_after_its_download_does_no_harm(storage: StorageConfig, folder: Path) -> None:
    engine = open_engine(storage, TransferConfig(), "")
    engine.upload(outgoing_file(engine, b"12345" * 10_000), "object").result(30.0)
    incoming = engine.download("object", 50_000).result(30.0)
    os.truncate(folder / "models/object", 0)
    assert incoming.view == b"12345" * 10_000
    incoming.release()
    with pytest.raises(ValueError, match="released"):
        len(incoming.view)
    engine.close()


def test_unfinished_files_are_not_objects(storage: StorageConfig) -> None:
    engine = open_engine(storage, TransferConfig(), "")
    store = open_store(storage)
    outgoing = outgoing_file(engine, b"12345")
    assert list(store.list("")) == []
    assert list(store.list(".")) == []
    assert list(store.list_folders("")) == []
    engine.abort()
    assert not os.path.exists(outgoing.path)


def test_released_room_leaves_no_file(storage: StorageConfig) -> None:
    engine = open_engine(storage, TransferConfig(), "")
    outgoing = outgoing_file(engine, b"12345")
    outgoing.release()
    assert not os.path.exists(outgoing.path)
    engine.close()


def test_leftovers_of_killed_processes_are_removed_once_they_are_old(storage: StorageConfig, folder: Path) -> None:
    for name, age in (("young", 0), ("old", LEFTOVER_SECONDS + 60)):
        leftover = folder / "models" / INCOMING / name
        leftover.mkdir(parents=True)
        (leftover / "chunk").write_bytes(b"half")
        then = (folder / "models").stat().st_mtime - age
        os.utime(leftover / "chunk", (then, then))
        os.utime(leftover, (then, then))
    engine = open_engine(storage, TransferConfig(), "")
    engine.outgoing(5)
    assert {path.name for path in (folder / "models" / INCOMING).iterdir()} > {"young"}
    assert not (folder / "models" / INCOMING / "old").exists()
    engine.close()


def test_a_missing_folder_is_not_made(storage: StorageConfig, folder: Path) -> None:
    folder.rmdir()
    engine = open_engine(storage, TransferConfig(), "")
    with pytest.raises(BucketNotFoundError, match=str(folder)):
        engine.outgoing(5)
    with pytest.raises(BucketNotFoundError):
        open_store(storage).write("x", b"")
    assert not folder.exists()
    engine.close()
