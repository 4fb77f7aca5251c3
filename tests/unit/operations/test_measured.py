"""What the agent remembers of engines."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from agent.config.model import Credentials, Provider, StorageConfig
from agent.events import Direction, Measurement
from agent.operations import measured
from agent.operations.measured import FILE_NAME, MeasuredStores

UP, DOWN = Direction.UPLOAD, Direction.DOWNLOAD
KEYS = Credentials("the-id", "the-very-secret-key")
STORE = StorageConfig(Provider.CUSTOM, "bucket", endpoint="http://127.0.0.1:1", credentials=KEYS)


async def reopened(folder: Path) -> MeasuredStores:
    stores = MeasuredStores(str(folder))
    await stores.load()
    return stores


async def test_the_latest_of_each_engine_and_direction_survives_the_agent(tmp_path: Path) -> None:
    stores = await reopened(tmp_path)
    assert stores.of(STORE) == ()
    stores.take(STORE, [Measurement("s5cmd", UP, 1.0, 1), Measurement("stream", UP, 2.0, 1)], "snapshot-1")
    stores.take(STORE, [Measurement("stream", UP, 3.0, 2, 0.5), Measurement("stream", DOWN, 4.0, 2)], "benchmark-2")
    await stores.save()
    for known in (stores, await reopened(tmp_path)):
        assert set(known.of(STORE)) == {
            Measurement("s5cmd", UP, 1.0, 1, 0.0, "snapshot-1"),
            Measurement("stream", UP, 3.0, 2, 0.5, "benchmark-2"),
            Measurement("stream", DOWN, 4.0, 2, 0.0, "benchmark-2"),
        }
    content = (tmp_path / FILE_NAME).read_text()
    assert "secret" not in content
    assert "the-id" not in content
    assert os.stat(tmp_path / FILE_NAME).st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"prefix": "another", "region": "elsewhere", "credentials": None}, True),
        ({"bucket": "another"}, False),
        ({"endpoint": "http://127.0.0.1:2"}, False),
        ({"provider": Provider.LOCAL, "endpoint": "/folder"}, False),
    ],
)
async def test_a_store_is_an_endpoint_and_a_bucket(tmp_path: Path, change: dict[str, object], is_same: bool) -> None:
    stores = await reopened(tmp_path)
    stores.take(STORE, [Measurement("s5cmd", UP, 1.0, 1)], "snapshot-1")
    assert bool(stores.of(msgspec.structs.replace(STORE, **change))) is is_same


async def test_an_agent_without_a_storage_knows_nothing(tmp_path: Path) -> None:
    assert (await reopened(tmp_path)).of(StorageConfig()) == ()


TOO_LATE = [Measurement("s5cmd", UP, 1.0, 1 << 63)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "stores": []}',
        b'{"version":1,"stores":[{}]}',
        b'{"version": 1, "stores": "\xff"}',
        b'{"version": 1, "stores": ' + b"[" * 50_000,
        b'{"version": 1, "x": ' + b"[" * 50_000,
        pytest.param(
            msgspec.json.encode(
                {"version": 1, "stores": [{"place": measured._place(STORE), "measurements": TOO_LATE}]}
            ),
            id="a time that cannot be told",
        ),
    ],
)
async def test_what_cannot_be_read_is_forgotten(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    stores = await reopened(tmp_path)
    assert stores.of(STORE) == ()
    stores.take(STORE, [Measurement("s5cmd", UP, 1.0, 1)], "snapshot-1")
    await stores.save()
    assert (await reopened(tmp_path)).of(STORE) != ()


async def test_what_cannot_be_written_is_still_known(tmp_path: Path) -> None:
    stores = MeasuredStores(str(tmp_path / "missing"))
    stores.take(STORE, [Measurement("s5cmd", UP, 1.0, 1)], "snapshot-1")
    await stores.save()
    assert stores.of(STORE) != ()


async def test_only_so_many_stores_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "STORES_KEPT", 3)
    stores = await reopened(tmp_path)
    storages = [msgspec.structs.replace(STORE, bucket=f"bucket-{number}") for number in range(4)]
    for storage in [*storages[:3], storages[0], storages[3]]:
        stores.take(storage, [Measurement("s5cmd", UP, 1.0, 1)], "snapshot-1")
    assert [bool(stores.of(storage)) for storage in storages] == [True, False, True, True]
