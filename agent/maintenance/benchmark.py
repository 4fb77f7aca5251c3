"""A benchmark from start to end: random objects to the store and back, with each engine in turn, several times."""

from __future__ import annotations

import contextlib
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from agent.config.model import EngineChoice, Provider
from agent.config.provider import resolve
from agent.errors import (
    CancelledError,
    EngineUnavailableError,
    GpusnapError,
    StorageAccessDeniedError,
)
from agent.events import BenchmarkReport, BenchmarkRun, Direction, Emit, Measurement, OperationResult, Stage
from agent.maintenance.benchmark_objects import BenchmarkObjects, wrong_bytes
from agent.maintenance.benchmark_receivers import Receivers
from agent.maintenance.request import BenchmarkRequest
from agent.pipeline.crew import Crew
from agent.pipeline.meter import Meter, Reporter
from agent.pipeline.warnings import Warnings
from agent.pipeline.workers import worker_count
from agent.storage.engine import Incoming, TransferEngine, TransferReport
from agent.storage.open import open_engine, open_store
from agent.storage.store import Store

STAGES = (Stage.UPLOAD, Stage.DOWNLOAD)

REMOVAL_SECONDS = 1.0
"""How long a store that does not answer is asked to delete the objects of a benchmark that failed or was cancelled."""

_STAGE_OF = {Direction.UPLOAD: Stage.UPLOAD, Direction.DOWNLOAD: Stage.DOWNLOAD}


def run(request: BenchmarkRequest, emit: Emit, cancel: threading.Event) -> OperationResult:
    """Measures; blocks until it is done. Its objects are deleted in any case, as far as the store lets it.

    Raises:
        GpusnapError: it failed, or was cancelled.
    """
    with contextlib.closing(open_store(request.storage, request.transfer.retry_seconds)) as store:
        store.check()
        return _Benchmark(request, store, emit, cancel).run()


class _Benchmark:
    """The state of one benchmark while it runs."""

    def __init__(self, request: BenchmarkRequest, store: Store, emit: Emit, cancel: threading.Event) -> None:
        self._request = request
        self._objects = BenchmarkObjects(store, request.operation, request.object_bytes, self._check)
        self._emit = emit
        self._cancel = cancel
        self._meter = Meter(STAGES, leading=Stage.DOWNLOAD)
        self._warnings = Warnings()
        self._count = max(request.bytes // request.object_bytes, 1)
        is_folder = request.storage.provider is Provider.LOCAL
        self._choices = [EngineChoice.AUTO] if is_folder else [EngineChoice.S5CMD, EngineChoice.STREAM]
        self._runs: list[BenchmarkRun] = []

    def run(self) -> OperationResult:
        """Does all rounds."""
        self._expect()
        with Reporter(self._meter, self._emit):
            try:
                self._remove(lambda: self._objects.remove_leftovers(self._request.earlier))
                for number in range(1, self._request.rounds + 1):
                    self._round(number)
                self._remove(self._objects.remove_all)
            except BaseException:
                self._remove_quickly()
                raise
        self._warnings.emit(self._emit)
        return self._result()

    def _expect(self) -> None:
        total = self._count * self._request.object_bytes * self._request.rounds * len(self._choices)
        for stage in STAGES:
            self._meter.expect(stage, total)

    def _round(self, number: int) -> None:
        """Lets every engine upload, and then download what it has uploaded; the next round begins with the last one."""
        turn = self._choices if number % 2 else self._choices[::-1]
        stored: list[str] = []
        for direction in Direction:
            for choice in list(turn):
                keys = self._objects.keys(number, choice.value, self._count)
                stored += keys
                try:
                    self._measure(choice, direction, number, keys)
                except EngineUnavailableError as error:
                    self._leave_out(choice, error)
        self._remove(lambda: self._objects.remove(dict.fromkeys(stored)))

    def _remove(self, action: Callable[[], None]) -> None:
        try:
            action()
        except StorageAccessDeniedError as error:
            message = f"the objects of the benchmark could not be removed: {error.message}"
            self._warnings.add("BENCHMARK_NOT_REMOVED", message, b"")

    def _leave_out(self, choice: EngineChoice, error: EngineUnavailableError) -> None:
        self._choices = [each for each in self._choices if each is not choice]
        self._runs = [run for run in self._runs if run.engine != choice.value]
        if not self._choices:
            raise error
        self._expect()
        self._warnings.add("ENGINE_NOT_MEASURED", f"{choice.value} could not be measured: {error.message}", b"")

    def _measure(self, choice: EngineChoice, direction: Direction, number: int, keys: list[str]) -> None:
        if choice not in self._choices:
            return
        before = _cpu_seconds()
        transfer = msgspec.structs.replace(self._request.transfer, engine=choice)
        engine = open_engine(self._request.storage, transfer, self._request.staging_dir, direction)
        try:
            with self._receivers(engine, direction) as receivers:

                def stop() -> None:
                    engine.abort()
                    if receivers is not None:
                        receivers.abort()

                # A cancel ends every wait.
                with Crew(self._cancel, on_stop=stop).work():
                    begun = time.monotonic()
                    for future in self._move(engine, direction, keys, receivers):
                        future.result()
                    seconds = time.monotonic() - begun
                # These have not ended yet.
                elsewhere = receivers.processor_seconds if receivers is not None else 0.0
                cpu_seconds = _cpu_seconds() - before + elsewhere
        except BaseException:
            engine.abort()
            raise
        engine.close()
        size = len(keys) * self._request.object_bytes
        self._runs.append(BenchmarkRun(engine.name, direction, number, size, seconds, cpu_seconds))

    @contextlib.contextmanager
    def _receivers(self, engine: TransferEngine, direction: Direction) -> Iterator[Receivers | None]:
        """Worker processes for downloads, where a restore would have some that fetch."""
        workers = worker_count(self._request.transfer.workers)
        if direction is Direction.UPLOAD or engine.loans is None or workers == 1:
            yield None
            return
        size = self._request.object_bytes
        with contextlib.closing(Receivers(engine.loans, self._objects, size, workers)) as receivers:
            yield receivers

    def _move(
        self, engine: TransferEngine, direction: Direction, keys: list[str], receivers: Receivers | None
    ) -> Sequence[Future[TransferReport] | Future[None]]:
        if direction is Direction.UPLOAD:
            return self._upload(engine, keys)
        if receivers is None:
            return [self._fetch(engine, key) for key in keys]
        with ThreadPoolExecutor(receivers.count, "receive") as pool:
            return list(pool.map(lambda key: self._receive(receivers, engine, key), keys))

    def _receive(self, receivers: Receivers, engine: TransferEngine, key: str) -> Future[None]:
        self._check()
        report = receivers.fetch(key)
        if report is None:
            return self._fetch(engine, key)
        self._moved(report, Stage.DOWNLOAD)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _upload(self, engine: TransferEngine, keys: list[str]) -> list[Future[TransferReport]]:
        futures = []
        for key in keys:
            self._check()
            future = self._begin_upload(engine, key)
            future.add_done_callback(self._uploaded)
            futures.append(future)
        return futures

    def _begin_upload(self, engine: TransferEngine, key: str) -> Future[TransferReport]:
        size = self._request.object_bytes
        if engine.sources is not None and engine.sources.are_preferred(size):
            return engine.sources.upload(self._objects.source(key), key)
        outgoing = engine.outgoing(size)
        try:
            self._objects.write(outgoing, key)
        except BaseException:
            outgoing.release()
            raise
        return engine.upload(outgoing, key)

    def _uploaded(self, done: Future[TransferReport]) -> None:
        if done.exception() is None:
            self._moved(done.result(), Stage.UPLOAD)

    def _fetch(self, engine: TransferEngine, key: str) -> Future[None]:
        self._check()
        looked_at: Future[None] = Future()

        def arrived(done: Future[Incoming]) -> None:
            try:
                incoming = done.result()
                try:
                    if not self._objects.is_right(key, incoming.view):
                        raise wrong_bytes(key)
                finally:
                    incoming.release()
                self._moved(incoming.report, Stage.DOWNLOAD)
            except BaseException as error:  # carried to who waits
                looked_at.set_exception(error)
            else:
                looked_at.set_result(None)

        engine.download(key, self._request.object_bytes).add_done_callback(arrived)
        return looked_at

    def _check(self) -> None:
        if self._cancel.is_set():
            raise CancelledError("the operation was cancelled")

    def _moved(self, report: TransferReport, stage: Stage) -> None:
        self._meter.add(stage, report.stored_bytes, 1, report.seconds)

    def _remove_quickly(self) -> None:
        """Deletes what was stored, though something failed: neither that nor a cancel may wait for long."""
        request = self._request
        try:
            with contextlib.closing(open_store(request.storage, REMOVAL_SECONDS)) as store:
                BenchmarkObjects(store, request.operation, 0, lambda: None).remove_all()
        except GpusnapError:
            pass  # the next benchmark removes it; what went wrong here is said already

    def _result(self) -> OperationResult:
        storage = self._request.storage
        return OperationResult(
            snapshot_id="",
            transferred_bytes=sum(run.bytes for run in self._runs),
            seconds=time.monotonic() - self._meter.started,
            warnings=self._warnings.count,
            stages=self._meter.stages(),
            measurements=summary(self._runs, time.time_ns()),
            benchmark=BenchmarkReport(
                storage.provider.value, storage.bucket, resolve(storage).endpoint_url, tuple(self._runs)
            ),
        )


def summary(runs: Iterable[BenchmarkRun], time_ns: int) -> tuple[Measurement, ...]:
    """Returns what all rounds say about each engine and direction: the medians."""
    found: dict[tuple[str, Direction], list[BenchmarkRun]] = {}
    for each in runs:
        found.setdefault((each.engine, each.direction), []).append(each)
    return tuple(
        Measurement(
            engine,
            direction,
            statistics.median(each.bytes / max(each.seconds, 1e-9) for each in own),
            time_ns,
            statistics.median(each.cpu_seconds / each.bytes * 1e9 for each in own),
        )
        for (engine, direction), own in found.items()
    )


def _cpu_seconds() -> float:
    """Returns what this process and its children that have ended took of the processors."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
