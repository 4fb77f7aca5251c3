"""The real S3 server of the tests."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from agent.config.model import Credentials, Provider, StorageConfig
from controller_client.demo.seaweed import Seaweed

REGION = "us-east-1"
_PROBE_BUCKET = "the-server-is-ready"
_TENANT = "tenant"
_EVERYTHING = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}],
}


class SeaweedServer(Seaweed):
    """SeaweedFS with what tests need: buckets of their own and the configuration that leads to them.

    ``kill`` and ``start`` simulate an outage; the ``seaweed`` fixture starts it again after a test that did not.
    """

    _probed = False

    def start(self, seconds: float = 60.0) -> None:
        """Starts it and returns once it gives out what it had before and takes something new."""
        if not self.running:
            super().start(seconds)
            self._until_it_works(self._probe, seconds)

    def client(self) -> Any:
        """Returns a boto3 client of the administrator, to look at objects and to damage them."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(
                s3={"addressing_style": "path"}, retries={"max_attempts": 0}, connect_timeout=5, read_timeout=30
            ),
        )

    def make_bucket(self) -> str:
        """Makes a bucket that takes objects and returns its name; the ``bucket`` fixture also removes it."""
        bucket = f"test-{uuid.uuid4().hex[:16]}"
        self._until_it_works(lambda: self._fill(bucket), 30.0)
        self.client().delete_object(Bucket=bucket, Key="ready")
        return bucket

    def remove_bucket(self, bucket: str) -> None:
        """Removes a bucket with all its objects, which frees the disk at once."""
        self.client().delete_bucket(Bucket=bucket)

    def storage_config(self, bucket: str, prefix: str = "") -> StorageConfig:
        """Returns the configuration of a repository in ``bucket``, with explicit credentials."""
        return StorageConfig(
            provider=Provider.CUSTOM,
            bucket=bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            region=REGION,
            credentials=Credentials(self.access_key, self.secret_key),
        )

    def new_keys(self) -> Credentials:
        """Returns keys of somebody who may use every bucket, until they are revoked."""
        iam = self._iam()
        with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_user(UserName=_TENANT)
        iam.put_user_policy(UserName=_TENANT, PolicyName="everything", PolicyDocument=json.dumps(_EVERYTHING))
        made = iam.create_access_key(UserName=_TENANT)["AccessKey"]
        return Credentials(made["AccessKeyId"], made["SecretAccessKey"])

    def revoke(self, keys: Credentials) -> None:
        """Makes keys invalid, for whatever is asked from now on."""
        self._iam().delete_access_key(UserName=_TENANT, AccessKeyId=keys.access_key_id)

    @property
    def address(self) -> tuple[str, int]:
        """Its host and port."""
        host, _, port = self.endpoint.removeprefix("http://").partition(":")
        return host, int(port)

    def _iam(self) -> Any:
        return boto3.client(
            "iam",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
        )

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), "-s3.iam.readOnly=false"]

    def _probe(self) -> None:
        """Works once every part of the server has found the others again, which takes a moment after a start."""
        if self._probed:
            self.client().get_object(Bucket=_PROBE_BUCKET, Key="ready")["Body"].read()
        self._fill(_PROBE_BUCKET)
        self._probed = True

    def _fill(self, bucket: str) -> None:
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="ready", Body=bytes(100_000))

    def _until_it_works(self, attempt: Callable[[], None], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return attempt()
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
