"""Worker processes that fetch segments themselves: whatever happens to them or on the way, all comes back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.config.model import EngineChoice, TransferConfig
from agent.errors import CancelledError, DataLossError, StorageUnavailableError
from agent.events import ChunkFinished, ChunkKind, PipelineEvent
from agent.repository import keys
from agent.restore.request import IfNotEmpty
from agent.storage.loan import Arrival
from agent.storage.open import open_store
from tests.support.damage import flipped
from tests.support.pipelines import memory_folder
from tests.support.processes import processes_running
from tests.support.proxy import Fault, Proxy, Seen, answer
from tests.support.saved import Saved
from tests.support.seaweed import SeaweedServer
from tests.support.trees import Directory, File, Node, Seeded

MIB = 1 << 20
LARGE = MIB
SEGMENTS = 12
TREE: list[Node] = [
    Directory(b"code"),
    *(File(b"code/%03d" % number, Seeded(500, seed=number)) for number in range(200)),
    *(File(b"model-%02d" % number, Seeded(LARGE + 4097 * number, seed=number)) for number in range(SEGMENTS - 1)),
    File(b"same", Seeded(LARGE, seed=0)),
    # LZ4 shrinks only the first of its blocks.
    File(b"half", b"x" * (4 * MIB) + os.urandom(4 * MIB + 5)),
]


@pytest.fixture(params=[EngineChoice.STREAM, EngineChoice.AUTO])
def saved(request: pytest.FixtureRequest, seaweed: SeaweedServer, bucket: str, proxy: Proxy) -> Iterator[Saved]:
    """A workspace in a real bucket that two worker processes restore, by way of the proxy."""
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-fetching-", dir=memory_folder()))
    made = Saved(folder, TREE, LARGE, seaweed.storage_config(bucket))
    made.pipelines.storage = msgspec.structs.replace(made.pipelines.storage, endpoint=proxy.endpoint)
    made.pipelines.transfer = TransferConfig(engine=request.param, workers=2, connections=8, retry_seconds=4.0)
    yield made
    shutil.rmtree(folder)
    assert processes_running("agent.restore.worker") == set()


def segments_of(saved: Saved) -> list[str]:
    return [keys.chunk(chunk.id) for chunk in saved.chunks if chunk.kind is ChunkKind.SEGMENT]


def is_segment(saved: Saved) -> Callable[[Seen], bool]:
    wanted = segments_of(saved)
    return lambda seen: any(seen.path.split("?")[0].endswith(key) for key in wanted)


def finished(saved: Saved) -> list[ChunkFinished]:
    return [event for event in saved.pipelines.events if isinstance(event, ChunkFinished)]


def at_each_chunk(saved: Saved, act: Callable[[int], None]) -> None:
    """Calls ``act`` with the number of each chunk that is finished in the next operation."""

    class Events(list[PipelineEvent]):
        def append(self, event: PipelineEvent) -> None:
            super().append(event)
            if isinstance(event, ChunkFinished):
                act(sum(isinstance(each, ChunkFinished) for each in self))

    saved.pipelines.new_events = Events


def test_every_segment_is_fetched_by_a_worker(saved: Saved, arrivals: list[Arrival | None], proxy: Proxy) -> None:
    saved.restore()
    assert saved.differences() == []
    assert len(arrivals) == SEGMENTS
    assert None not in arrivals
    wanted = {each.id.hex() for each in saved.chunks if each.kind in (ChunkKind.PACK, ChunkKind.SEGMENT)}
    assert sorted(event.chunk_id for event in finished(saved)) == sorted(wanted)
    assert {event.engine for event in finished(saved)} == {"stream"}
    asked = [seen for seen in proxy.seen if is_segment(saved)(seen)]
    assert len(asked) == SEGMENTS
    assert proxy.most_connections <= saved.pipelines.transfer.connections


def test_what_is_chosen_is_fetched_over_what_is_there(saved: Saved, arrivals: list[Arrival | None]) -> None:
    saved.restore(IfNotEmpty.FAIL, b"model-03")
    saved.restore(IfNotEmpty.OVERWRITE)
    assert saved.differences() == []
    assert None not in arrivals
    assert len(arrivals) == SEGMENTS  # the one that is there is not fetched again


def test_one_worker_leaves_it_to_the_engine(saved: Saved, arrivals: list[Arrival | None]) -> None:
    saved.pipelines.transfer = msgspec.structs.replace(saved.pipelines.transfer, workers=1)
    saved.restore()
    assert saved.differences() == []
    assert arrivals == []


def test_broken_answers_are_continued(saved: Saved, arrivals: list[Arrival | None], proxy: Proxy) -> None:
    wanted = is_segment(saved)
    proxy.script = lambda seen: Fault(end_after=LARGE // 2) if wanted(seen) and not seen.range else None
    saved.restore()
    assert saved.differences() == []
    assert [arrival.attempts for arrival in arrivals if arrival] == [2] * SEGMENTS
    assert sorted(event.attempts for event in finished(saved))[-SEGMENTS:] == [2] * SEGMENTS


def test_what_is_refused_is_left_to_the_engine(saved: Saved, arrivals: list[Arrival | None], proxy: Proxy) -> None:
    wanted, refused = is_segment(saved), set()

    def script(seen: Seen) -> Fault | None:
        if not wanted(seen) or seen.path in refused:
            return None
        refused.add(seen.path)
        return Fault(answer=answer(503, "<Error><Code>SlowDown</Code></Error>"))

    proxy.script = script
    saved.restore()
    assert saved.differences() == []
    # One of each worker; after the first nothing more is lent.
    assert arrivals in ([None], [None, None])
    assert len(refused) == SEGMENTS


def test_slow_connections_are_left_to_the_engine(saved: Saved, arrivals: list[Arrival | None], proxy: Proxy) -> None:
    proxy.default = Fault(piece_seconds=0.1)  # 640 KB/s
    saved.restore()
    assert saved.differences() == []
    assert arrivals in ([None], [None, None])


def test_damage_is_looked_at_again_and_named(saved: Saved, arrivals: list[Arrival | None], proxy: Proxy) -> None:
    store = open_store(saved.pipelines.storage)
    key = keys.chunk(saved.chunk_of(b"model-05").id)
    store.write(key, flipped(store.read(key), LARGE // 2))
    store.close()
    with pytest.raises(DataLossError, match=r"1 chunks of .* are damaged.*do not match its id; not restored: model-05"):
        saved.restore()
    assert saved.missing() == {"model-05"}
    assert sum(seen.path.split("?")[0].endswith(key) and seen.method == "GET" for seen in proxy.seen) >= 3


def test_damage_on_the_way_is_mended(saved: Saved, proxy: Proxy) -> None:
    wanted, damaged = is_segment(saved), set()

    def script(seen: Seen) -> Fault | None:
        if not wanted(seen) or seen.path in damaged:
            return None
        damaged.add(seen.path)
        return Fault(flip_at=LARGE // 3)

    proxy.script = script
    saved.restore()
    assert saved.differences() == []
    assert len(damaged) == SEGMENTS


def test_a_missing_segment_is_named(saved: Saved) -> None:
    store = open_store(saved.pipelines.storage)
    store.delete(keys.chunk(saved.chunk_of(b"model-05").id))
    store.close()
    with pytest.raises(DataLossError, match="its object is missing in the store; not restored: model-05"):
        saved.restore()
    assert saved.missing() == {"model-05"}


def test_the_segment_of_a_killed_worker_is_fetched_by_another(saved: Saved) -> None:
    killed = []

    def kill(number: int) -> None:
        if number in (2, 6):
            for pid in processes_running("agent.restore.worker"):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    at_each_chunk(saved, kill)
    saved.restore()
    assert saved.differences() == []
    assert killed


def test_a_cancel_ends_workers_that_wait_for_the_store(saved: Saved, proxy: Proxy) -> None:
    wanted = is_segment(saved)
    cancel = threading.Event()

    def script(seen: Seen) -> Fault | None:
        if not wanted(seen):
            return None
        cancel.set()
        return Fault(stall_after=1000)

    proxy.script = script
    saved.pipelines.transfer = msgspec.structs.replace(saved.pipelines.transfer, retry_seconds=3600.0)
    with pytest.raises(CancelledError):
        saved.restore(cancel=cancel)


def test_a_store_that_is_gone_ends_it_in_time(saved: Saved, proxy: Proxy) -> None:
    at_each_chunk(saved, lambda number: proxy.close() if number == 3 else None)
    with pytest.raises(StorageUnavailableError):
        saved.restore()
