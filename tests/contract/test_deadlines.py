"""What is held up until its time is over changes nothing, and a store that takes it all the same is found out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from agent.config.model import StorageConfig
from agent.errors import DeadlinePassedError, DeadlinesIgnoredError, ObjectNotFoundError
from agent.storage.clock import read_clock
from agent.storage.directory import INCOMING, DirectoryStore
from agent.storage.directory_deadline import REMOVED_PREFIX, UPLOAD_PREFIX
from agent.storage.open import open_store
from agent.storage.store import Deadline
from tests.support.proxy import Fault, Proxy, answer


@pytest.mark.parametrize("late", ["PUT", "DELETE"])
def test_a_store_that_takes_late_requests_is_found_out(s3_storage: StorageConfig, proxy: Proxy, late: str) -> None:
    store = open_store(msgspec.structs.replace(s3_storage, endpoint=proxy.endpoint), retry_seconds=5.0)
    # The object that is tried with, its time, the late upload, the late delete.
    lenient = [Fault(), Fault(), Fault(), Fault()]
    lenient[{"PUT": 2, "DELETE": 3}[late]] = Fault(answer=answer(200))
    proxy.faults.extend(lenient)
    with pytest.raises(DeadlinesIgnoredError, match=s3_storage.bucket):
        store.demand_deadlines(60)
    assert [seen.method for seen in proxy.seen] == ["PUT", "HEAD", "PUT", "DELETE", "DELETE"]
    assert list(store.list("")) == []
    store.close()


def test_requests_with_a_deadline_are_tried_again(s3_storage: StorageConfig, proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    store = open_store(msgspec.structs.replace(s3_storage, endpoint=proxy.endpoint), retry_seconds=10.0)
    now = read_clock(store)
    proxy.faults.extend([Fault(reset_after=1000), Fault(answer=answer(503)), Fault(is_mute=True)])
    store.upload_before("x", str(tmp_path / "file"), Deadline(now, 600))
    assert store.head("x").size == 100_000
    proxy.faults.extend([Fault(), Fault(answer=answer(503)), Fault(answer=answer(500))])
    assert store.delete_if_older("x", now + 100, Deadline(now, 600)) == 100_000
    with pytest.raises(ObjectNotFoundError):
        store.head("x")
    store.close()


def test_a_server_decides_about_lateness_when_the_request_arrives(s3_storage: StorageConfig, tmp_path: Path) -> None:
    store = open_store(s3_storage, retry_seconds=5.0)
    (tmp_path / "file").write_bytes(b"x")
    now = read_clock(store)
    store.upload_before("x", str(tmp_path / "file"), Deadline(now, 2))
    while read_clock(store) <= now + 2:
        time.sleep(0.1)
    with pytest.raises(DeadlinePassedError):
        store.upload_before("y", str(tmp_path / "file"), Deadline(now, 2))
    with pytest.raises(DeadlinePassedError):
        store.delete_if_older("x", now + 100, Deadline(now, 2))
    assert [found.key for found in store.list("")] == ["x"]
    store.close()


# In a folder.


@pytest.fixture
def folder(tmp_path: Path) -> DirectoryStore:
    """An empty store in a folder."""
    (tmp_path / "store").mkdir()
    return DirectoryStore(str(tmp_path / "store"))


def age(path: Path, seconds: float) -> None:
    """Makes a file or folder look as old as that."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_an_object_is_as_old_as_its_name(folder: DirectoryStore) -> None:
    incoming = Path(folder.incoming_folder())
    (incoming / "object").write_bytes(b"x")
    age(incoming / "object", 1000)
    now = read_clock(folder)
    folder.adopt(str(incoming / "object"), "chunks/00/aa")
    assert folder.head("chunks/00/aa").modified_s >= now
    assert [found.modified_s >= now for found in folder.list("chunks/")] == [True]


def test_an_upload_that_was_stopped_finds_its_file_taken_away(
    folder: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    adopt = folder.adopt

    def stopped_before_the_rename(path: str, key: str) -> int:
        for name in (path, os.path.dirname(path)):
            age(Path(name), 1000)
        folder.demand_deadlines(100)
        return adopt(path, key)

    monkeypatch.setattr(folder, "adopt", stopped_before_the_rename)
    with pytest.raises(DeadlinePassedError):
        folder.upload_before("x", str(tmp_path / "file"), Deadline(read_clock(folder), 600))
    assert list(folder.list("")) == []


def test_uploads_under_way_are_left_alone(folder: DirectoryStore) -> None:
    young = Path(folder.incoming_folder(UPLOAD_PREFIX))
    other = Path(folder.incoming_folder())
    age(other, 1000)
    folder.demand_deadlines(100)
    assert young.is_dir()
    assert other.is_dir()


def test_a_file_that_came_after_the_look_is_put_back(folder: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("chunks/00/aa", b"old")
    now = read_clock(folder)

    def replaced_after_the_look(path: str, *rest: object) -> None:
        folder.write("chunks/00/aa", b"new")

    monkeypatch.setattr("agent.storage.directory.check_in_time", replaced_after_the_look)
    assert folder.delete_if_older("chunks/00/aa", now + 100, Deadline(now, 600)) is None
    assert folder.read("chunks/00/aa") == b"new"


def test_a_file_that_a_killed_process_took_away_is_put_back(
    folder: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("chunks/00/aa", b"content")
    now = read_clock(folder)

    class KilledError(BaseException):
        """Stands for SIGKILL: what follows is not run."""

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("agent.storage.directory_deadline.os.unlink", killed)
        with pytest.raises(KilledError):
            folder.delete_if_older("chunks/00/aa", now + 100, Deadline(now, 600))
    assert list(folder.list("")) == []
    (aside,) = Path(folder.location, INCOMING).glob(f"{REMOVED_PREFIX}*")

    folder.demand_deadlines(100)  # too early: the process may live
    assert list(folder.list("")) == []
    age(aside / "chunks%2F00%2Faa", 1000)
    age(aside, 1000)
    folder.demand_deadlines(100)
    assert folder.read("chunks/00/aa") == b"content"
    assert not aside.exists()
