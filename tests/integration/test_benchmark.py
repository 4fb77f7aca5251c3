"""Benchmarks of a real agent with real stores: what they say, what they leave, and who follows them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from tests.support.daemon import Daemon
from tests.support.gpusnap import Gpusnap
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy
from tests.support.rpc import SECONDS, connected, states, watch
from tests.support.seaweed import SeaweedServer

SMALL = ("--size", "4MiB", "--object-size", "1MiB", "--rounds", "2")
SLOW = Fault(piece_seconds=0.05)
"""A link over which an object of 1 MiB takes almost a second."""

Keys = Callable[[], set[str]]


@pytest.fixture
def agent(stopped_daemon: Daemon, seaweed: SeaweedServer, bucket: str, proxy: Proxy) -> Daemon:
    """An agent with a bucket as its storage, and a folder as a further one."""
    stopped_daemon.environ |= {
        "STORAGE_PROVIDER": "custom",
        "STORAGE_ENDPOINT": proxy.endpoint,
        "STORAGE_BUCKET": bucket,
        "STORAGE_PREFIX": "here",
        "STORAGE_ACCESS_KEY_ID": seaweed.access_key,
        "STORAGE_SECRET_ACCESS_KEY": seaweed.secret_key,
        "GPUSNAP_PROVIDERS__FOLDER__PROVIDER": "local",
        "GPUSNAP_PROVIDERS__FOLDER__ENDPOINT": str(stopped_daemon.repository),
        "GPUSNAP_TRANSFER__CONNECTIONS": "4",
    }
    return stopped_daemon


@pytest.fixture
def keys(seaweed: SeaweedServer, bucket: str) -> Keys:
    """Says what is in the bucket."""

    def look() -> set[str]:
        return {found["Key"] for found in seaweed.client().list_objects_v2(Bucket=bucket).get("Contents", [])}

    return look


def test_all_stores_are_measured_and_the_agent_follows(agent: Daemon, keys: Keys) -> None:
    agent.start()
    gpusnap = Gpusnap(agent.address)
    measured = gpusnap.run("bench", *SMALL)
    assert measured.code == 0, measured.stderr
    header, *rows = (line.split() for line in measured.stdout.splitlines())
    assert header[:3] == ["PROVIDER", "BUCKET", "ENGINE"]
    assert [(row[0], row[2]) for row in rows] == [("storage", "s5cmd"), ("storage", "stream"), ("folder", "directory")]
    assert all(float(row[column].replace(",", "")) > 0 for row in rows for column in (3, 5, 7, 9))
    assert keys() == set()
    assert [path for path in agent.repository.rglob("*") if path.is_file()] == []

    (info,) = gpusnap.run("info", "--json").records
    agent.stop()
    agent.start()
    (again,) = gpusnap.run("info", "--json").records
    assert again["engines"] == info["engines"]
    assert [use["direction"] for use in info["engines"]] == ["upload", "download"]
    for use in info["engines"]:
        assert use["engine"] in ("s5cmd", "stream")
        assert use["reason"].startswith(f"measured here before: {use['direction']} at ")
        assert {item["engine"] for item in use["measurements"]} == {"s5cmd", "stream"}
        assert all(item["cpu_seconds_per_gb"] > 0 and item["operation"] for item in use["measurements"])

    workspace = agent.workspace_root / "w"
    workspace.mkdir()
    (workspace / "model.bin").write_bytes(b"x" * 1000)
    completed = gpusnap.run("snapshot", str(workspace), "--json").records[-1]
    assert completed["result"]["engine"] == info["engines"][0]["engine"]
    assert completed["result"]["engine_reason"] == info["engines"][0]["reason"]


def test_each_round_is_told(agent: Daemon) -> None:
    agent.start()
    ended = Gpusnap(agent.address).run("bench", "--provider", "storage", *SMALL, "--json")
    assert ended.code == 0, ended.stderr
    *_, completed = (record for record in ended.records if record["record"] == "completed")
    report = completed["result"]["benchmark"]
    told = [(run["round"], run["direction"], run["engine"]) for run in report["runs"]]
    assert told == [
        *((1, direction, engine) for direction in ("upload", "download") for engine in ("s5cmd", "stream")),
        *((2, direction, engine) for direction in ("upload", "download") for engine in ("stream", "s5cmd")),
    ]
    assert {run["bytes"] for run in report["runs"]} == {4 << 20}
    measured = [record for record in ended.records if record["record"] == "measurement"]
    assert {(item["provider"], item["vendor"], item["engine"], item["direction"]) for item in measured} == {
        ("storage", "custom", engine, direction)
        for engine, direction in itertools.product(("s5cmd", "stream"), ("upload", "download"))
    }


def test_an_engine_that_does_not_work_is_left_out(agent: Daemon, keys: Keys) -> None:
    agent.environ["GPUSNAP_TRANSFER__S5CMD_PATH"] = "/nowhere/s5cmd"
    agent.start()
    ended = Gpusnap(agent.address).run("bench", "--provider", "storage", *SMALL)
    assert ended.code == 3
    assert "ENGINE_NOT_MEASURED: s5cmd could not be measured" in ended.stderr
    assert [line.split()[2] for line in ended.stdout.splitlines()] == ["ENGINE", "stream"]
    assert keys() == set()


def test_one_store_that_fails_does_not_hold_up_the_others(agent: Daemon) -> None:
    agent.repository.rmdir()
    agent.start()
    ended = Gpusnap(agent.address).run("bench", "--provider", "folder", "--provider", "storage", *SMALL)
    assert ended.code == 1
    assert str(agent.repository) in ended.stderr
    assert [line.split()[2] for line in ended.stdout.splitlines()] == ["ENGINE", "s5cmd", "stream"]


def test_a_cancelled_one_leaves_nothing(agent: Daemon, proxy: Proxy, keys: Keys) -> None:
    agent.start()
    proxy.default = SLOW
    with connected(agent.address) as stub:
        request = pb.BenchmarkRequest(bytes=16 << 20, object_bytes=1 << 20, rounds=1)
        responses = stub.Benchmark(request, timeout=SECONDS)
        name = next(responses).event.operation
        wait_until(keys, "something is stored")
        assert all(key.startswith(f"here/benchmark/{name}/") for key in keys())
        stub.CancelOperation(pb.CancelOperationRequest(name=name))
        assert states([response.event for response in responses])[-1] == "CANCELLED"
    assert keys() == set()


def test_what_a_killed_one_left_is_removed_by_the_next(
    agent: Daemon, proxy: Proxy, keys: Keys, seaweed: SeaweedServer, bucket: str
) -> None:
    agent.start()
    proxy.default = SLOW
    # Credentials of a request are not kept, so this benchmark is not continued after the restart.
    credentials = pb.Credentials(access_key_id=seaweed.access_key, secret_access_key=seaweed.secret_key)
    storage = pb.Storage(
        provider=pb.PROVIDER_CUSTOM, bucket=bucket, prefix="here", endpoint=proxy.endpoint, credentials=credentials
    )
    with connected(agent.address) as stub:
        request = pb.BenchmarkRequest(bytes=16 << 20, object_bytes=1 << 20, rounds=1, storage=storage)
        name = next(stub.Benchmark(request, timeout=SECONDS)).event.operation
        wait_until(keys, "something is stored")
    agent.stop(9)
    proxy.default = Fault()
    wait_until(lambda: not proxy.open_connections, "the end of what is still on its way")
    stranger = "here/benchmark/benchmark-of-another-agent/1-stream-00000"
    seaweed.client().put_object(Bucket=bucket, Key=stranger, Body=b"x")
    agent.start()
    with connected(agent.address) as stub:
        assert states(watch(stub, name))[-1] == "FAILED"
    assert {key.split("/")[2] for key in keys()} == {name, "benchmark-of-another-agent"}
    assert Gpusnap(agent.address).run("bench", "--provider", "storage", *SMALL).code == 0
    assert keys() == {stranger}, "which is young: another agent may be at work"


def test_a_provider_that_is_not_configured_is_refused(agent: Daemon) -> None:
    agent.start()
    refused = Gpusnap(agent.address).run("bench", "--provider", "r2")
    assert refused.code == 1
    assert "no [providers.r2], only folder" in refused.stderr


def test_a_store_can_be_described_by_the_command(agent: Daemon) -> None:
    agent.start()
    folder = agent.workspace_root / "store"
    folder.mkdir()
    named = ("--provider", "local", "--endpoint", str(folder))
    ended = Gpusnap(agent.address).run("bench", *named, *SMALL)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.splitlines()[1].split()[:3] == ["local", str(folder), "directory"]
    operations = Gpusnap(agent.address).run("operations").stdout.splitlines()
    (name,) = [line.split()[0] for line in operations if line.startswith("benchmark-")]
    watched = Gpusnap(agent.address).run("watch", name)
    assert watched.stdout == ended.stdout
