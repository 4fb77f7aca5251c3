"""The places every store and every engine is tried with."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.config.model import Provider, StorageConfig
from agent.storage.open import open_store
from tests.support.seaweed import SeaweedServer

ODD_PREFIX = "my models/it's *ü 快照?[x]\"&#%41+;$HOME`~<>|"

MakeStorage = Callable[[str], StorageConfig]


@pytest.fixture(scope="session")
def contract_bucket(seaweed: SeaweedServer) -> str:
    """One bucket for all contract tests; each has a prefix of its own."""
    return seaweed.make_bucket()


@pytest.fixture(scope="session")
def make_stored(seaweed: SeaweedServer, contract_bucket: str) -> Callable[[bytes], StorageConfig]:
    """Makes a repository in a real bucket with one object, which is called "object"."""

    def make(data: bytes) -> StorageConfig:
        storage = seaweed.storage_config(contract_bucket, f"with {uuid.uuid4().hex[:8]}")
        store = open_store(storage)
        store.write("object", data)
        store.close()
        return storage

    return make


@pytest.fixture(params=["local", "s3"])
def make_storage(request: pytest.FixtureRequest) -> MakeStorage:
    """Makes the configuration of an empty repository below a prefix, in a folder and in a real bucket."""
    made: MakeStorage = request.getfixturevalue(f"make_{request.param}_storage")
    return made


@pytest.fixture
def make_local_storage(tmp_path: Path) -> MakeStorage:
    """Makes the configuration of an empty repository in a folder."""
    folder = tmp_path / "store"
    folder.mkdir()
    return lambda prefix: StorageConfig(provider=Provider.LOCAL, endpoint=str(folder), prefix=prefix)


@pytest.fixture
def make_s3_storage(seaweed: SeaweedServer, contract_bucket: str) -> MakeStorage:
    """Makes the configuration of an empty repository in a real bucket."""
    own = uuid.uuid4().hex[:8]
    return lambda prefix: seaweed.storage_config(contract_bucket, f"{own}/{prefix}")


@pytest.fixture
def storage(make_storage: MakeStorage) -> StorageConfig:
    """An empty repository below a prefix full of odd characters."""
    return make_storage(ODD_PREFIX)


@pytest.fixture
def s3_storage(seaweed: SeaweedServer, contract_bucket: str) -> StorageConfig:
    """An empty repository in a real bucket."""
    return seaweed.storage_config(contract_bucket, uuid.uuid4().hex[:8])


@pytest.fixture
def staging() -> Iterator[Path]:
    """A staging folder on tmpfs where there is one, as on real machines."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        yield Path(folder)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """The key and the certificate of a server on this machine, which signs itself."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=store",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate
