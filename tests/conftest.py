"""Fixtures for all tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy
from tests.support.seaweed import SeaweedServer


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedServer]:
    """A real S3 server, one for each pytest process."""
    folder = tempfile.mkdtemp(prefix="gpusnap-seaweed-")
    server = SeaweedServer(folder, access_key="test-access-key", secret_key="test-secret-key")
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def proxy(seaweed: SeaweedServer) -> Iterator[Proxy]:
    """A way to the store that breaks what a test wants."""
    made = Proxy(seaweed.address)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _store_is_up_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """Starts the S3 server again after a test that killed it."""
    yield
    if "seaweed" in request.fixturenames:
        request.getfixturevalue("seaweed").start()


@pytest.fixture
def bucket(seaweed: SeaweedServer) -> Iterator[str]:
    """An empty bucket, removed after the test."""
    name = seaweed.make_bucket()
    yield name
    seaweed.start()
    seaweed.remove_bucket(name)
