"""What every store promises."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from agent.config.model import Credentials, Provider, StorageConfig
from agent.errors import (
    BucketNotFoundError,
    DeadlinePassedError,
    InvalidRequestError,
    ObjectNotFoundError,
    PathNotFoundError,
    StorageAccessDeniedError,
    StorageUnavailableError,
)
from agent.storage.check import check_steps
from agent.storage.clock import read_clock
from agent.storage.open import open_store
from agent.storage.store import Deadline, Store
from tests.support.seaweed import SeaweedServer


@pytest.fixture
def store(storage: StorageConfig) -> Iterator[Store]:
    opened = open_store(storage, retry_seconds=20.0)
    yield opened
    opened.close()


def keys(store: Store, prefix: str = "") -> list[str]:
    return [item.key for item in store.list(prefix)]


def test_written_objects_come_back(store: Store) -> None:
    store.check()
    store.write("snapshots/a/manifest", b"0123456789")
    assert store.read("snapshots/a/manifest") == b"0123456789"
    assert store.read("snapshots/a/manifest", 3) == b"3456789"
    assert store.read("snapshots/a/manifest", 3, 4) == b"3456"
    assert store.read("snapshots/a/manifest", 8, 10) == b"89"
    assert store.read("snapshots/a/manifest", 10, 5) == b""
    assert store.read("snapshots/a/manifest", 4, 0) == b""
    assert store.read_tail("snapshots/a/manifest", 4) == (b"6789", 10)
    assert store.read_tail("snapshots/a/manifest", 400) == (b"0123456789", 10)
    assert store.read_tail("snapshots/a/manifest", 0) == (b"", 10)


def test_empty_objects_come_back(store: Store, tmp_path: Path) -> None:
    store.write("empty", b"")
    assert store.read("empty") == b""
    assert store.read("empty", 0, 5) == b""
    assert store.read_tail("empty", 5) == (b"", 0)
    assert store.head("empty").size == 0
    store.download("empty", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == b""


def test_an_object_is_replaced_as_a_whole(store: Store) -> None:
    store.write("repository.json", b"the first and longer text")
    store.write("repository.json", b"second")
    assert store.read("repository.json") == b"second"


@pytest.mark.parametrize("size", [0, 1, (64 << 20) + 79])
def test_files_come_back(store: Store, tmp_path: Path, size: int) -> None:
    (tmp_path / "up").write_bytes(random.Random(size).randbytes(size))
    store.upload("snapshots/a/manifest", str(tmp_path / "up"))
    assert store.head("snapshots/a/manifest").size == size
    store.download("snapshots/a/manifest", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()


def test_listings_are_complete_and_relative_to_the_prefix(store: Store) -> None:
    written = ["chunks/00/aa", "chunks/00/ab", "chunks/ff/00", "repository.json", "snapshots/1/manifest"]
    for key in written:
        store.write(key, key.encode())
    assert keys(store) == written
    assert keys(store, "chunks/0") == written[:2]
    assert keys(store, "chunks/00/ab") == ["chunks/00/ab"]
    assert keys(store, "chunks/01/") == []
    assert list(store.list_folders("chunks/")) == ["00", "ff"]
    assert list(store.list_folders("snapshots/")) == ["1"]
    assert list(store.list_folders("nothing/")) == []
    assert [item.size for item in store.list("chunks/")] == [12, 12, 12]
    assert [item.modified_ns for item in store.list("snapshots/")] == [store.head("snapshots/1/manifest").modified_ns]


def test_listings_go_beyond_one_page(store: Store) -> None:
    written = [f"chunks/{number % 7:02}/{number:04}" for number in range(1050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.write(key, b"x"), written))
    assert keys(store, "chunks/") == sorted(written)


def test_another_prefix_is_not_seen(store: Store, storage: StorageConfig) -> None:
    store.write("repository.json", b"x")
    sibling = open_store(msgspec.structs.replace(storage, prefix=storage.prefix + "-more"))
    sibling.write("repository.json", b"y")
    assert keys(store) == ["repository.json"]
    assert keys(sibling) == ["repository.json"]
    sibling.close()


def test_deleted_objects_are_gone(store: Store) -> None:
    store.write("snapshots/a/manifest", b"x")
    store.delete("snapshots/a/manifest")
    store.delete("snapshots/a/manifest")
    store.delete("never/was/there")
    assert keys(store) == []


def test_a_copy_is_new(store: Store) -> None:
    store.write("snapshots/a/manifest", b"0123")
    store.copy("snapshots/a/manifest", "trash/a/manifest")
    store.copy("snapshots/a/manifest", "trash/a/manifest")
    store.delete("snapshots/a/manifest")
    assert store.read("trash/a/manifest") == b"0123"
    assert store.head("trash/a/manifest").modified_s >= read_clock(store) - 5
    with pytest.raises(ObjectNotFoundError):
        store.copy("snapshots/a/manifest", "trash/b/manifest")
    assert keys(store) == ["trash/a/manifest"]


def test_the_clock_leaves_nothing_and_agrees_with_ages(store: Store) -> None:
    before = read_clock(store)
    store.write("x", b"x")
    assert before <= store.head("x").modified_s <= read_clock(store)
    assert keys(store) == ["x"]


def test_an_upload_in_time(store: Store, tmp_path: Path) -> None:
    now = read_clock(store)
    for data in (b"first", b"", bytes(range(256)) * 1000):
        (tmp_path / "file").write_bytes(data)
        store.upload_before("snapshots/a/manifest", str(tmp_path / "file"), Deadline(now, 600))
        assert store.read("snapshots/a/manifest") == data
    assert keys(store) == ["snapshots/a/manifest"]
    with pytest.raises(PathNotFoundError, match="/nowhere/at/all"):
        store.upload_before("x", "/nowhere/at/all", Deadline(now, 600))


def test_an_upload_too_late(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"late")
    store.write("there", b"early")
    late = Deadline(read_clock(store) - 100, 50)
    for key in ("there", "not there"):
        with pytest.raises(DeadlinePassedError, match=key):
            store.upload_before(key, str(tmp_path / "file"), late)
    assert store.read("there") == b"early"
    assert keys(store) == ["there"]


def test_an_older_object_is_deleted(store: Store) -> None:
    store.write("chunks/00/aa", b"0123")
    now = read_clock(store)
    stored = store.head("chunks/00/aa").modified_s
    in_time = Deadline(now, 600)
    assert store.delete_if_older("chunks/00/aa", stored, in_time) is None
    assert store.delete_if_older("chunks/00/aa", stored - 1, in_time) is None
    assert store.read("chunks/00/aa") == b"0123"
    assert store.delete_if_older("chunks/00/aa", stored + 1, in_time) == 4
    assert store.delete_if_older("chunks/00/aa", stored + 1, in_time) is None
    assert keys(store) == []


def test_nothing_is_deleted_too_late(store: Store) -> None:
    store.write("chunks/00/aa", b"0123")
    now = read_clock(store)
    with pytest.raises(DeadlinePassedError):
        store.delete_if_older("chunks/00/aa", now + 100, Deadline(now - 100, 50))
    assert store.read("chunks/00/aa") == b"0123"


def test_every_store_keeps_to_deadlines(store: Store) -> None:
    store.demand_deadlines(60)
    store.write("x", b"x")
    store.demand_deadlines(60)
    assert keys(store) == ["x"]


def test_wrong_keys_do_not_pass_for_lateness(s3_storage: StorageConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    store = open_store(s3_storage, retry_seconds=5.0)
    now = read_clock(store)
    wrong = msgspec.structs.replace(s3_storage, credentials=Credentials("test-access-key", "wrong"))
    with pytest.raises(StorageAccessDeniedError):
        open_store(wrong, 5.0).upload_before("x", str(tmp_path / "file"), Deadline(now, 600))
    store.close()


def test_a_missing_object_is_named(store: Store, tmp_path: Path) -> None:
    store.write("chunks/00/aa", b"x")
    attempts: list[Callable[[], object]] = [
        lambda: store.read("chunks/00/bb"),
        lambda: store.read("chunks/00/bb", 0, 0),
        lambda: store.read_tail("chunks/00/bb", 10),
        lambda: store.head("chunks/00/bb"),
        lambda: store.download("chunks/00/bb", str(tmp_path / "down")),
    ]
    for attempt in attempts:
        with pytest.raises(ObjectNotFoundError, match="chunks/00/bb"):
            attempt()
    assert not (tmp_path / "down").exists()


def test_a_missing_local_file_is_named(store: Store) -> None:
    with pytest.raises(PathNotFoundError, match="/nowhere/at/all"):
        store.upload("manifest", "/nowhere/at/all")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../out", "a/../../out", "a//b", "a/.", "a\nb", "a\\b"])
def test_a_key_cannot_lead_elsewhere(store: Store, key: str) -> None:
    for attempt in (lambda: store.write(key, b"x"), lambda: store.read(key), lambda: store.delete(key)):
        with pytest.raises(InvalidRequestError):
            attempt()


def test_a_missing_bucket_is_named(storage: StorageConfig, tmp_path: Path) -> None:
    if storage.provider is Provider.LOCAL:
        storage = msgspec.structs.replace(storage, endpoint=str(tmp_path / "missing-bucket"))
    else:
        storage = msgspec.structs.replace(storage, bucket="missing-bucket")
    store = open_store(storage, retry_seconds=5.0)
    for attempt in (store.check, lambda: store.read("x"), lambda: store.head("x"), lambda: keys(store)):
        with pytest.raises(BucketNotFoundError, match="missing-bucket"):
            attempt()
    store.close()


def test_check_steps_leave_nothing_behind(store: Store) -> None:
    steps = check_steps(store)
    assert [(step.name, step.error) for step in steps] == [
        (name, None) for name in ("bucket", "write", "read", "list", "delete")
    ]
    assert keys(store) == []


def test_check_steps_stop_at_the_first_failure(s3_storage: StorageConfig) -> None:
    store = open_store(msgspec.structs.replace(s3_storage, bucket="missing-bucket"), retry_seconds=5.0)
    (step,) = check_steps(store)
    assert step.name == "bucket"
    assert step.error is not None
    assert step.error.reason == "BUCKET_NOT_FOUND"
    store.close()


@pytest.mark.parametrize("which", ["access key", "secret"])
def test_wrong_keys_are_denied_and_not_shown(s3_storage: StorageConfig, which: str) -> None:
    right = s3_storage.credentials
    assert right is not None
    wrong = Credentials("another-key" if which == "access key" else right.access_key_id, "not-the-secret-at-all")
    store = open_store(msgspec.structs.replace(s3_storage, credentials=wrong), retry_seconds=5.0)
    for attempt in (store.check, lambda: store.read("x"), lambda: store.head("x"), lambda: store.write("x", b"")):
        with pytest.raises(StorageAccessDeniedError, match=s3_storage.bucket) as caught:
            attempt()
        assert wrong.secret_access_key not in caught.value.message
    store.close()


def test_a_dead_server_is_unavailable(s3_storage: StorageConfig, seaweed: SeaweedServer) -> None:
    store = open_store(s3_storage, retry_seconds=1.0)
    store.write("before", b"x")
    seaweed.kill()
    with pytest.raises(StorageUnavailableError, match=s3_storage.endpoint):
        store.read("before")
    seaweed.start()
    assert store.read("before") == b"x"
    store.close()


def test_a_server_that_comes_back_in_time_is_not_noticed(s3_storage: StorageConfig, seaweed: SeaweedServer) -> None:
    store = open_store(s3_storage, retry_seconds=60.0)
    store.write("before", b"x")
    seaweed.kill()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.read, "before")
        seaweed.start()
        assert reading.result(60.0) == b"x"
    store.close()


def test_the_environment_does_not_redirect(s3_storage: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    store = open_store(s3_storage, retry_seconds=5.0)
    store.write("x", b"1")
    assert store.read("x") == b"1"
    store.close()


def test_keys_may_come_from_the_environment(s3_storage: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3_storage.credentials is not None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_storage.credentials.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_storage.credentials.secret_access_key)
    store = open_store(msgspec.structs.replace(s3_storage, credentials=None), retry_seconds=5.0)
    store.write("x", b"1")
    assert store.read("x") == b"1"
    store.close()


def test_concurrent_writes_and_deletes_in_one_folder_do_not_disturb_each_other(store: Store) -> None:
    def write_and_delete(number: int) -> None:
        store.write(f"chunks/00/{number}", b"x")
        store.delete(f"chunks/00/{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_and_delete, range(100)))
    assert keys(store) == []
