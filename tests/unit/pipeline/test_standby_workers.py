"""Worker processes that wait for work of any kind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.pipeline import standby_workers
from agent.pipeline.process_name import ProcessName
from agent.pipeline.standby_workers import StandbyWorkers
from agent.pipeline.worker_process import WorkerProcess
from tests.support.processes import is_running, processes_running, wait_until

MODULE = """
from agent.pipeline.worker_process import WorkerDiedError, own_connection

def main() -> int:
    connection = own_connection()
    connection.send(b"%b")
    try:
        while True:
            message, _ = connection.receive()
            connection.send(message)
    except WorkerDiedError:
        return 0

if __name__ == "__main__":
    main()
"""
MODULES = ("one_kind", "other_kind")


@pytest.fixture
def standby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandbyWorkers]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    for name in MODULES:
        (tmp_path / f"{name}.py").write_bytes(MODULE.encode() % name.encode())
    made = StandbyWorkers(MODULES, 2)
    yield made
    made.close()


def waiting() -> set[int]:
    return processes_running(standby_workers.__name__)


def is_of_use(process: WorkerProcess, module: str) -> bool:
    told = process.connection.receive()[0]
    process.connection.send(b"message")
    return (told, process.connection.receive()[0]) == (module.encode(), b"message")


def test_each_becomes_what_is_asked_for(standby: StandbyWorkers) -> None:
    pids = waiting()
    for module in MODULES:
        process = standby.take(module)
        assert process.pid in pids
        assert is_of_use(process, module)
        assert process.end() == "exit status 0"
    process = standby.take("one_kind")
    assert process.pid not in pids, "none is left"
    assert is_of_use(process, "one_kind")
    process.kill()


def test_one_that_died_is_passed_over(standby: StandbyWorkers) -> None:
    pids = waiting()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, pids)), "them to die")
    process = standby.take("other_kind")
    assert process.pid not in pids
    assert is_of_use(process, "other_kind")
    process.kill()


def test_what_waits_says_so_and_ends_when_it_is_not_needed(standby: StandbyWorkers) -> None:
    pids = waiting()
    assert len(pids) == 2
    for pid in pids:
        name = Path(f"/proc/{pid}/comm")
        wait_until(lambda name=name: name.read_text().strip() == ProcessName.STANDBY.value, "its name")  # type: ignore[misc]
    standby.close()
    assert waiting() == set()


def test_they_end_with_whoever_started_them(standby: StandbyWorkers) -> None:
    pids = waiting()
    for process in standby._waiting:
        process.connection.close()
    wait_until(lambda: not any(map(is_running, pids)), "them to end")


def test_one_that_cannot_be_started_leaves_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[WorkerProcess] = []

    def start(module: str, arguments: tuple[str, ...]) -> WorkerProcess:
        if started:
            raise OSError(12, "no memory")
        started.append(WorkerProcess(module, arguments=arguments))
        return started[0]

    monkeypatch.setattr(standby_workers, "WorkerProcess", start)
    with pytest.raises(OSError, match="no memory"):
        StandbyWorkers((), 2)
    assert not is_running(started[0].pid)
