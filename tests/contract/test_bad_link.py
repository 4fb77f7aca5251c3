"""A snapshot and a restore with the stream engine, over a link that breaks."""

from __future__ import annotations

import os
import subprocess
import uuid

import msgspec

from agent.config.model import EngineChoice
from tests.support.pipelines import Pipelines, memory_folder
from tests.support.proxy import Fault, Proxy
from tests.support.seaweed import SeaweedServer
from tests.support.trees import Directory, File, Seeded, build, compare

MIB = 1 << 20


def test_a_workspace_goes_there_and_back_over_a_bad_link(
    seaweed: SeaweedServer, contract_bucket: str, proxy: Proxy
) -> None:
    folder = memory_folder() / f"gpusnap-stream-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        storage = seaweed.storage_config(contract_bucket, f"round {uuid.uuid4().hex[:8]}")
        pipelines = Pipelines(folder, msgspec.structs.replace(storage, endpoint=proxy.endpoint))
        pipelines.transfer = msgspec.structs.replace(pipelines.transfer, engine=EngineChoice.STREAM, retry_seconds=20.0)
        workspace, target = os.fsencode(folder / "workspace"), os.fsencode(folder / "target")
        build(
            workspace,
            [
                Directory(b"code"),
                *(File(f"code/{number}.py".encode(), Seeded(number * 100)) for number in range(300)),
                File(b"code/empty", b""),
                File(b"model.safetensors", Seeded(70 * MIB)),
            ],
        )
        broken = Fault(end_after=MIB)
        proxy.faults.extend([Fault(), broken, Fault(), Fault(), broken])
        saved = pipelines.snapshot(workspace)
        proxy.faults.clear()
        proxy.faults.extend([Fault()] * 4 + [broken, Fault(reset_after=MIB)] * 3)
        restored = pipelines.restore(target)
        assert (saved.engine, restored.engine) == ("stream", "stream")
        assert compare(workspace, target) == []
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)
