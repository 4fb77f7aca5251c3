"""The link to the benchmark's stores: shaping, TLS, and nginx as a store."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import time
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from controller_client.demo.children import free_port
from tests.benchmarks.shaper import Pace, serve
from tests.benchmarks.stores import Link, StoreKind, open_store


async def test_a_pace_counts_all_that_passes() -> None:
    pace = Pace(1e9)
    await pace.take(1_000_000)
    begun = pace.free_at
    await pace.take(20_000_000)
    assert pace.free_at - begun >= 0.02


async def test_each_connection_has_a_limit_of_its_own() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)

    async def send_and_receive(port: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)  # it does not listen yet
        writer.write(bytes(500_000))
        assert await reader.readexactly(500_000) == bytes(500_000)
        writer.close()

    echoing = await asyncio.start_server(echo, "127.0.0.1", 0)
    server = f"127.0.0.1:{echoing.sockets[0].getsockname()[1]}"
    port = free_port(set())
    shaper = asyncio.create_task(serve(port, server, math.inf, 40.0))
    begun = time.monotonic()
    await asyncio.gather(*(send_and_receive(port) for _ in range(3)))
    seconds = time.monotonic() - begun
    shaper.cancel()
    echoing.close()
    assert seconds >= 0.1


def test_a_link_says_what_limits_it() -> None:
    assert Link().is_unlimited
    assert not Link(connection_megabits=1).is_unlimited
    assert [str(Link()), str(Link(1e3)), str(Link(2000, 80))] == [
        "unlimited",
        "1000 Mbit/s",
        "2000 Mbit/s, 80 Mbit/s a connection",
    ]


@pytest.mark.skipif(not shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"), reason="nginx is missing")
@pytest.mark.parametrize("tls", [False, True])
def test_objects_come_back_through_a_shaped_link(tmp_path: Path, tls: bool) -> None:
    content = os.urandom(3_000_000)
    with (
        open_store(StoreKind.NGINX, tmp_path, tls=tls, link=Link(4000, 2000)) as store,
        store.bucket() as bucket,
    ):
        client = boto3.client(
            "s3",
            endpoint_url=bucket.endpoint,
            aws_access_key_id=bucket.access_key,
            aws_secret_access_key=bucket.secret_key,
            region_name=bucket.region,
            verify=str(bucket.certificate) if bucket.certificate else None,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )
        client.head_bucket(Bucket=bucket.name)
        client.put_object(Bucket=bucket.name, Key="a/b", Body=content)
        assert client.get_object(Bucket=bucket.name, Key="a/b", Range="bytes=-7")["Body"].read() == content[-7:]
        assert client.get_object(Bucket=bucket.name, Key="a/b")["Body"].read() == content
        assert client.list_objects_v2(Bucket=bucket.name)["KeyCount"] == 0, "it has no listings"
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket=bucket.name, Key="none")
        with pytest.raises(ClientError):
            client.head_object(Bucket=bucket.name, Key="none")
