"""The memory of the stream engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.config.model import Credentials, EngineChoice, Provider, StorageConfig, TransferConfig
from agent.errors import CancelledError
from agent.repository.frame import max_stored_size
from agent.repository.model import MAX_CHUNK_SIZE
from agent.storage.open import open_engine
from tests.support.processes import wait_until

NOWHERE = StorageConfig(
    provider=Provider.CUSTOM, bucket="bucket", endpoint="http://127.0.0.1:1", credentials=Credentials("id", "secret")
)
LARGEST = max_stored_size(MAX_CHUNK_SIZE)


@pytest.mark.parametrize(
    ("staging_size", "at_once"), [(TransferConfig().staging_size, 4), (1536 << 20, 15)], ids=["the default", "more"]
)
def test_so_many_large_chunks_can_be_uploaded_at_once(staging_size: int, at_once: int) -> None:
    transfer = TransferConfig(engine=EngineChoice.STREAM, staging_size=staging_size)
    engine = open_engine(NOWHERE, transfer, "/nowhere")
    with ThreadPoolExecutor(1) as pool:
        rooms = [pool.submit(engine.outgoing, LARGEST).result(30.0) for _ in range(at_once)]
        one_more = pool.submit(engine.outgoing, LARGEST)
        wait_until(one_more.running, "another one is asked for")
        engine.abort()
        with pytest.raises(CancelledError):
            one_more.result(30.0)
    for room in rooms:
        room.release()
