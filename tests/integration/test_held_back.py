"""An operation says what held it back: in its result, in the command's summary and in the metrics."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from tests.support.daemon import Daemon
from tests.support.gpusnap import Ended, Gpusnap
from tests.support.pipelines import memory_folder
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import SECONDS, connected, watch
from tests.support.scrape import scrape
from tests.support.seaweed import SeaweedServer

CAUSES = {pb.CAUSE_PROCESSOR: "processor", pb.CAUSE_STORE: "store", pb.CAUSE_DISK: "disk", pb.CAUSE_SCAN: "scan"}
SLOW = Fault(piece_seconds=0.03)
"""About 2 MB/s."""


@pytest.fixture
def agent() -> Iterator[Daemon]:
    """An agent that is not started yet, whose folders all lie in memory where that is possible."""
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-", dir=memory_folder()))
    daemon = Daemon(folder, environ={"GPUSNAP_TRANSFER__WORKERS": "2", "GPUSNAP_TRANSFER__ENGINE": "stream"})
    yield daemon
    daemon.close()
    shutil.rmtree(folder, ignore_errors=True)


def found_by(agent: Daemon, kind: str, ended: Ended) -> str:
    """Returns what held the last operation back; its result, the command and the metrics must agree on that."""
    assert ended.code == 0, ended.stderr
    with connected(agent.address) as stub:
        [operation] = stub.ListOperations(pb.ListOperationsRequest(page_size=1), timeout=SECONDS).operations
        result = watch(stub, operation.name)[-1].completed.result
    told = {CAUSES[each.cause]: each.seconds for each in result.occupation}
    assert list(told.values()) == sorted(told.values(), reverse=True)
    samples = scrape(agent)
    counted = {cause: _seconds(samples, "thread", f'cause="{cause}",operation="{kind}"') for cause in CAUSES.values()}
    assert counted == pytest.approx({cause: told.get(cause, 0.0) for cause in counted})
    first = next(iter(told))
    assert f"; held back by the {first}" in ended.stderr
    return first


def _seconds(samples: dict[str, float], what: str, labels: str) -> float:
    return samples.get(f"gpusnap_{what}_seconds_total{{{labels}}}", 0.0)


def test_a_slow_link_is_the_store_s_fault(agent: Daemon, seaweed: SeaweedServer, bucket: str, proxy: Proxy) -> None:
    agent.environ |= {
        "STORAGE_PROVIDER": "custom",
        "STORAGE_ENDPOINT": f"http://127.0.0.1:{proxy.port}",
        "STORAGE_BUCKET": bucket,
        "STORAGE_ACCESS_KEY_ID": seaweed.access_key,
        "STORAGE_SECRET_ACCESS_KEY": seaweed.secret_key,
    }
    agent.start()
    workspace = agent.workspace_root / "w"
    workspace.mkdir()
    (workspace / "model.bin").write_bytes(os.urandom(4 << 20))
    (workspace / "notes.txt").write_text("notes")
    proxy.default = SLOW

    saved = Gpusnap(agent.address).run("snapshot", str(workspace))
    assert found_by(agent, "snapshot", saved) == "store"

    restored = Gpusnap(agent.address).run("restore", "latest", str(agent.workspace_root / "r"))
    assert found_by(agent, "restore", restored) == "store"
    samples = scrape(agent)
    for kind, stages in (("snapshot", ("scan", "pack", "upload")), ("restore", ("download", "decompress", "write"))):
        busy = {stage: _seconds(samples, "stage_busy", f'operation="{kind}",stage="{stage}"') for stage in stages}
        moving = stages[2] if kind == "snapshot" else stages[0]
        assert min(busy.values()) > 0
        assert max(busy, key=lambda stage: busy[stage]) == moving


def test_a_local_store_leaves_processor_and_disk(agent: Daemon) -> None:
    agent.start()
    workspace = agent.workspace_root / "w"
    for number in range(3000):
        folder = workspace / f"folder-{number % 30}"
        if number < 30:
            folder.mkdir(parents=True)
        (folder / f"file-{number}.txt").write_bytes(b"%d" % number * 300)
    assert Gpusnap(agent.address).run("snapshot", str(workspace)).code == 0

    restored = Gpusnap(agent.address).run("restore", "latest", str(agent.workspace_root / "r"))

    assert found_by(agent, "restore", restored) in ("processor", "disk")
