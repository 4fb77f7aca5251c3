"""Benchmarks whose downloads are done by worker processes, as those of a restore are."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.config.model import TransferConfig
from agent.errors import CancelledError, DataLossError, WorkerCrashedError
from agent.events import BenchmarkRun, Direction
from agent.maintenance import benchmark
from agent.maintenance.benchmark_objects import MARK_BYTES
from agent.maintenance.benchmark_receivers import MODULE
from agent.maintenance.request import BenchmarkRequest
from agent.storage.loan import Arrival
from tests.support.processes import processes_running
from tests.support.proxy import Fault, Proxy, Seen, answer
from tests.support.seaweed import SeaweedServer

MIB = 1 << 20
COUNT = 4

Bench = Callable[..., list[BenchmarkRun]]


@pytest.fixture
def bench(seaweed: SeaweedServer, bucket: str, proxy: Proxy, tmp_path: Path) -> Bench:
    """Runs a benchmark of so many bytes an object, by way of the proxy."""

    def run(size: int = 5 * MIB, workers: int = 2, cancel: threading.Event | None = None) -> list[BenchmarkRun]:
        storage = msgspec.structs.replace(seaweed.storage_config(bucket), endpoint=proxy.endpoint)
        transfer = TransferConfig(connections=8, workers=workers, retry_seconds=4.0)
        request = BenchmarkRequest("the-benchmark", COUNT * size, size, 1, str(tmp_path), storage, transfer)
        result = benchmark.run(request, lambda event: None, cancel or threading.Event())
        assert result.benchmark is not None
        return list(result.benchmark.runs)

    return run


def is_download_by_a_worker(seen: Seen) -> bool:
    return seen.method == "GET" and "-stream-" in seen.path


def stream_download(runs: list[BenchmarkRun]) -> BenchmarkRun:
    (found,) = (run for run in runs if (run.engine, run.direction) == ("stream", Direction.DOWNLOAD))
    return found


@pytest.mark.parametrize("size", [1, MARK_BYTES, MARK_BYTES + 1, 5 * MIB, 8 * MIB], ids=str)
def test_workers_fetch_the_objects(bench: Bench, arrivals: list[Arrival | None], size: int) -> None:
    run = stream_download(bench(size))
    assert run.bytes == COUNT * size
    assert run.cpu_seconds > 0
    assert len(arrivals) == COUNT
    assert None not in arrivals
    assert processes_running(MODULE) == set()


def test_one_worker_leaves_it_to_the_engine(bench: Bench, arrivals: list[Arrival | None]) -> None:
    assert stream_download(bench(workers=1)).bytes == COUNT * 5 * MIB
    assert arrivals == []


def test_what_does_not_come_is_left_to_the_engine(bench: Bench, arrivals: list[Arrival | None], proxy: Proxy) -> None:
    refused = set()

    def script(seen: Seen) -> Fault | None:
        if not is_download_by_a_worker(seen) or seen.path in refused:
            return None
        refused.add(seen.path)
        return Fault(answer=answer(503))

    proxy.script = script
    assert stream_download(bench()).bytes == COUNT * 5 * MIB
    assert arrivals in ([None], [None, None])


@pytest.mark.parametrize("place", [MARK_BYTES - 1, 5 * MIB - 1], ids=["beginning", "end"])
def test_wrong_bytes_are_found(bench: Bench, proxy: Proxy, place: int) -> None:
    proxy.script = lambda seen: Fault(flip_at=place) if is_download_by_a_worker(seen) else None
    with pytest.raises(DataLossError, match="came back with other bytes than were stored"):
        bench()


def test_a_worker_that_dies_is_named(bench: Bench, proxy: Proxy) -> None:
    def script(seen: Seen) -> Fault | None:
        if is_download_by_a_worker(seen):
            for pid in processes_running(MODULE):
                os.kill(pid, signal.SIGKILL)
            return Fault(stall_after=1000)
        return None

    proxy.script = script
    with pytest.raises(WorkerCrashedError, match="died by SIGKILL"):
        bench()
    assert processes_running(MODULE) == set()


def test_a_cancel_ends_workers_that_wait(bench: Bench, proxy: Proxy) -> None:
    cancel = threading.Event()

    def script(seen: Seen) -> Fault | None:
        if not is_download_by_a_worker(seen):
            return None
        cancel.set()
        return Fault(stall_after=1000)

    proxy.script = script
    with pytest.raises(CancelledError):
        bench(cancel=cancel)
    assert processes_running(MODULE) == set()
