"""The link to the benchmark's stores: shaping, TLS, and nginx as a store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.benchmarks.shaper import Pace
from tests.benchmarks.stores import StoreKind, open_store


async def test_a_pace_counts_all_that_passes() -> None:
    pace = Pace(1e9)
    await pace.take(1_000_000)
    begun = pace.free_at
    await pace.take(20_000_000)
    assert pace.free_at - begun >= 0.02


@pytest.mark.skipif(not shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"), reason="nginx is missing")
@pytest.mark.parametrize("tls", [False, True])
def test_objects_come_back_through_a_shaped_link(tmp_path: Path, tls: bool) -> None:
    content = os.urandom(3_000_000)
    with (
        open_store(StoreKind.NGINX, tmp_path, tls=tls, megabits=4000) as store,
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
