"""What only the s5cmd engine promises: nothing that happens to a process or a server goes unnoticed."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest

from agent.config.model import Credentials, EngineChoice, StorageConfig, TransferConfig
from agent.errors import (
    CancelledError,
    EngineUnavailableError,
    StagingFullError,
    StorageAccessDeniedError,
    StorageUnavailableError,
)
from agent.storage.engine import Incoming, TransferEngine, TransferReport
from agent.storage.open import open_engine, open_store
from agent.storage.s5cmd_child import Child
from tests.support.processes import children_called, is_running, wait_until
from tests.support.seaweed import SeaweedServer

MIB = 1 << 20
SECONDS = 120.0
LARGE = 64 * MIB

MakeEngine = Callable[[TransferConfig], TransferEngine]


def config(**fields: object) -> TransferConfig:
    return msgspec.structs.replace(TransferConfig(engine=EngineChoice.S5CMD), **fields)


@pytest.fixture(scope="module")
def s3_storage(seaweed: SeaweedServer, contract_bucket: str) -> StorageConfig:
    """One repository for all tests here, so that the large object is stored once."""
    return seaweed.storage_config(contract_bucket, "s5cmd engine")


@pytest.fixture
def make_engine(s3_storage: StorageConfig, staging: Path) -> Iterator[MakeEngine]:
    made: list[TransferEngine] = []

    def make(transfer: TransferConfig) -> TransferEngine:
        made.append(open_engine(s3_storage, transfer, str(staging)))
        return made[-1]

    yield make
    for engine in made:
        engine.abort()
    assert children_called("s5cmd") == set()
    assert list(staging.iterdir()) == []


@pytest.fixture(scope="module")
def large() -> bytes:
    return random.Random(1).randbytes(LARGE)


@pytest.fixture(scope="module")
def large_object(s3_storage: StorageConfig, large: bytes) -> str:
    store = open_store(s3_storage)
    store.write("chunks/large", large)
    store.close()
    return "chunks/large"


def start_upload(engine: TransferEngine, key: str, data: bytes) -> Future[TransferReport]:
    outgoing = engine.outgoing(len(data))
    outgoing.write(data)
    return engine.upload(outgoing, key)


def staged_bytes(staging: Path) -> int:
    total = 0
    for path in staging.iterdir():
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            pass
    return total


def kill_s5cmd() -> None:
    for process in children_called("s5cmd"):
        os.kill(process, signal.SIGKILL)


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "s5cmd"
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_abort_in_the_middle_leaves_nothing(make_engine: MakeEngine, large_object: str, staging: Path) -> None:
    engine = make_engine(config())
    futures = [engine.download(large_object, LARGE) for _ in range(6)]
    wait_until(lambda: staged_bytes(staging) > 0, "a download has begun")
    (process,) = children_called("s5cmd")
    engine.abort()
    assert not is_running(process)
    assert list(staging.iterdir()) == []
    for future in futures:
        if not isinstance(future.exception(0.0), CancelledError):
            future.result().release()
    assert any(isinstance(future.exception(), CancelledError) for future in futures)


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_killed_s5cmd_is_not_noticed(
    make_engine: MakeEngine, large: bytes, large_object: str, staging: Path, direction: str
) -> None:
    engine = make_engine(config(retry_seconds=30.0))
    futures: list[Future[TransferReport]] | list[Future[Incoming]]
    if direction == "upload":
        futures = [start_upload(engine, f"chunks/{number}", large) for number in range(3)]
        wait_until(lambda: children_called("s5cmd"), "s5cmd runs")
    else:
        futures = [engine.download(large_object, LARGE) for _ in range(3)]
        wait_until(lambda: staged_bytes(staging) > 0, "a download has begun")
    kill_s5cmd()
    results = [future.result(SECONDS) for future in futures]
    attempts = []
    for result in results:
        if isinstance(result, TransferReport):
            attempts.append(result.attempts)
            continue
        assert result.view == large
        attempts.append(result.report.attempts)
        result.release()
    assert max(attempts) > 1
    assert list(staging.iterdir()) == []


def test_an_s5cmd_that_keeps_dying_is_given_up(make_engine: MakeEngine, tmp_path: Path) -> None:
    script = (
        '#!/bin/sh\nif [ "$1" = version ]; then echo v2.3.0; exit; fi\nread line\necho "out of order" >&2\nexit 3\n'
    )
    engine = make_engine(config(s5cmd_path=program(tmp_path, script)))
    futures = [engine.download(f"chunks/{number}", 10) for number in range(3)]
    for future in futures:
        with pytest.raises(EngineUnavailableError, match=r"ended with status 3, 4 times in a row.*out of order"):
            future.result(SECONDS)


def test_a_server_killed_in_the_middle_is_unavailable_in_time(
    make_engine: MakeEngine, seaweed: SeaweedServer, large: bytes, large_object: str, staging: Path
) -> None:
    engine = make_engine(config(retry_seconds=3.0))
    uploads = [start_upload(engine, f"chunks/{number}", large) for number in range(2)]
    downloads = [engine.download(large_object, LARGE) for _ in range(4)]
    wait_until(lambda: staged_bytes(staging) > 2 * LARGE, "a download has begun")
    seaweed.kill()
    outcomes = [upload.exception(60.0) for upload in uploads] + [download.exception(60.0) for download in downloads]
    for download in downloads:
        if not download.exception():
            download.result().release()
    problems = [outcome for outcome in outcomes if outcome]
    assert problems
    for problem in problems:
        assert isinstance(problem, StorageUnavailableError)
        assert seaweed.endpoint in str(problem)
    assert list(staging.iterdir()) == []


def test_a_server_that_comes_back_in_time_is_not_noticed(
    make_engine: MakeEngine, seaweed: SeaweedServer, large: bytes
) -> None:
    engine = make_engine(config(retry_seconds=60.0))
    seaweed.kill()
    future = start_upload(engine, "chunks/x", large)
    wait_until(lambda: children_called("s5cmd"), "s5cmd runs")
    seaweed.start()
    future.result(SECONDS)
    incoming = engine.download("chunks/x", LARGE).result(SECONDS)
    assert incoming.view == large
    incoming.release()


def test_a_server_that_stops_answering_is_unavailable_in_time(make_engine: MakeEngine, large_object: str) -> None:
    engine = make_engine(config(retry_seconds=2.0))
    engine.download(large_object, LARGE).result(SECONDS).release()
    (server,) = children_called("weed")
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(StorageUnavailableError, match="stopped answering"):
            engine.download(large_object, LARGE).result(60.0)
    finally:
        os.kill(server, signal.SIGCONT)


def test_a_stopped_s5cmd_is_replaced(make_engine: MakeEngine, large: bytes, large_object: str) -> None:
    engine = make_engine(config(retry_seconds=6.0))
    engine.download(large_object, LARGE).result(SECONDS).release()
    (process,) = children_called("s5cmd")
    os.kill(process, signal.SIGSTOP)
    incoming = engine.download(large_object, LARGE).result(SECONDS)
    assert incoming.report.attempts == 2
    assert incoming.view == large
    incoming.release()
    assert not is_running(process)


def test_s5cmd_dies_with_its_parent(s3_storage: StorageConfig, large_object: str, staging: Path) -> None:
    script = (
        "import sys, msgspec\n"
        "from agent.config.model import EngineChoice, StorageConfig, TransferConfig\n"
        "from agent.storage.open import open_engine\n"
        "storage = msgspec.json.decode(sys.argv[1], type=StorageConfig)\n"
        "engine = open_engine(storage, TransferConfig(engine=EngineChoice.S5CMD), sys.argv[2])\n"
        f"engine.download({large_object!r}, {LARGE}).result().release()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", script, msgspec.json.encode(s3_storage).decode(), str(staging)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        (process,) = children_called("s5cmd", parent.pid)
        parent.kill()
    wait_until(lambda: not is_running(process), "s5cmd has ended")


@pytest.mark.parametrize("which", ["access key", "secret"])
def test_wrong_keys_are_denied_and_not_shown(s3_storage: StorageConfig, staging: Path, which: str) -> None:
    right = s3_storage.credentials
    assert right is not None
    wrong = Credentials("another-key" if which == "access key" else right.access_key_id, "not-the-secret-at-all")
    engine = open_engine(msgspec.structs.replace(s3_storage, credentials=wrong), config(), str(staging))
    for future in (engine.download("x", 5), start_upload(engine, "x", b"12345")):
        with pytest.raises(StorageAccessDeniedError, match=s3_storage.bucket) as caught:
            future.result(SECONDS)
        assert wrong.secret_access_key not in caught.value.message
    engine.close()
    assert list(staging.iterdir()) == []


def test_no_secret_is_in_the_arguments(make_engine: MakeEngine, s3_storage: StorageConfig) -> None:
    engine = make_engine(config())
    start_upload(engine, "x", b"12345").result(SECONDS)
    (process,) = children_called("s5cmd")
    arguments = Path(f"/proc/{process}/cmdline").read_bytes()
    assert s3_storage.credentials is not None
    assert s3_storage.credentials.secret_access_key.encode() not in arguments
    assert s3_storage.credentials.access_key_id.encode() not in arguments
    assert s3_storage.endpoint.encode() in arguments


def test_the_environment_does_not_redirect(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    monkeypatch.setenv("AWS_PROFILE", "another")
    start_upload(make_engine(config(retry_seconds=5.0)), "x", b"12345").result(SECONDS)


def test_keys_may_come_from_the_environment(
    s3_storage: StorageConfig, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3_storage.credentials is not None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_storage.credentials.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_storage.credentials.secret_access_key)
    storage = msgspec.structs.replace(s3_storage, credentials=None)
    engine = open_engine(storage, config(retry_seconds=5.0), str(staging))
    start_upload(engine, "x", b"12345").result(SECONDS)
    engine.close()


def test_profiles_are_used(
    s3_storage: StorageConfig, staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = s3_storage.credentials
    assert keys is not None
    file = tmp_path / "credentials"
    file.write_text(
        f"[mine]\naws_access_key_id = {keys.access_key_id}\naws_secret_access_key = {keys.secret_access_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    storage = msgspec.structs.replace(s3_storage, credentials=None, profile="mine")
    engine = open_engine(storage, config(retry_seconds=5.0), str(staging))
    start_upload(engine, "x", b"12345").result(SECONDS)
    engine.close()
    store = open_store(storage, 5.0)
    assert store.read("x") == b"12345"
    store.close()


def test_the_staging_budget_bounds_what_is_staged(
    make_engine: MakeEngine, large_object: str, staging: Path, large: bytes
) -> None:
    engine = make_engine(config(staging_size=2 * LARGE))
    most = 0
    done = threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, staged_bytes(staging))

    looking = threading.Thread(target=look)
    looking.start()
    for future in [engine.download(large_object, LARGE) for _ in range(2)]:
        future.add_done_callback(lambda each: each.result().release())
    for _ in range(4):
        engine.download(large_object, LARGE).add_done_callback(lambda each: each.result().release())
    engine.close()
    done.set()
    looking.join()
    assert LARGE // 2 < most <= 2 * LARGE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_staging_folder_that_is_too_small_is_named_with_numbers(
    s3_storage: StorageConfig, large_object: str, staging: Path, large: bytes
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={8 * MIB}", "none", staging], check=True)
    try:
        engine = open_engine(s3_storage, config(), str(staging))
        with pytest.raises(StagingFullError, match=rf"{staging} has [0-9,]+ bytes free.* needs 67,108,864"):
            engine.download(large_object, LARGE)
        with pytest.raises(StagingFullError, match=str(staging)):
            engine.download(large_object, 1000).result(SECONDS)
        assert list(staging.iterdir()) == []
        engine.close()
    finally:
        subprocess.run(["umount", staging], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_staging_folder_that_fills_up_is_named_with_numbers(s3_storage: StorageConfig, staging: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={8 * MIB}", "none", staging], check=True)
    try:
        engine = open_engine(s3_storage, config(), str(staging))
        outgoing = engine.outgoing(6 * MIB)
        (staging / "of-someone-else").write_bytes(bytes(4 * MIB))
        with pytest.raises(StagingFullError, match=rf"{staging} has [0-9,]+ bytes free.* needs 6,291,456"):
            outgoing.write(bytes(6 * MIB))
        outgoing.release()
        engine.abort()
        assert list(staging.iterdir()) == []
    finally:
        subprocess.run(["umount", staging], check=True)


def test_a_line_to_an_s5cmd_that_has_ended_is_an_error_of_the_system() -> None:
    ended = threading.Event()
    child = Child("test", ["true"], {}, lambda line: None, lambda status: ended.set())
    assert ended.wait(SECONDS)
    with pytest.raises(OSError):
        child.send(b"a line")
    child.join(0.0)
