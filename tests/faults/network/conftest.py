"""Agents that reach a real store through a proxy that breaks what a test wants."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.rpc import convert
from tests.faults.invariants import SETTINGS, TREE, Kind, Scene
from tests.support.daemon import Daemon
from tests.support.proxy import Proxy
from tests.support.seaweed import SeaweedServer
from tests.support.trees import Node

PATIENT_SECONDS = 6.0
"""How long most agents try: twice as long as a connection may be silent."""

HASTY_SECONDS = 1.0
"""How long one tries whose operations shall fail."""


@pytest.fixture(scope="module", params=["s5cmd", "stream"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    chosen: str = request.param
    return chosen


Agents = Callable[[float], Daemon]


@pytest.fixture(scope="module")
def agents(engine: str) -> Iterator[Agents]:
    """Gives an agent that uses the engine and tries for so many seconds. All may use the same workspaces."""
    with contextlib.ExitStack() as stack:
        common = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpusnap-")))
        made: dict[float, Daemon] = {}

        def agent(retry_seconds: float) -> Daemon:
            if retry_seconds not in made:
                folder = Path(tempfile.mkdtemp(prefix="gpusnap-"))
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                environ = {
                    **SETTINGS,
                    "GPUSNAP_AGENT__WORKSPACE_ROOTS": str(common),
                    "GPUSNAP_TRANSFER__ENGINE": engine,
                    "GPUSNAP_TRANSFER__RETRY_SECONDS": str(retry_seconds),
                }
                made[retry_seconds] = Daemon(folder, environ=environ)
                made[retry_seconds].workspace_root = common
                stack.callback(made[retry_seconds].close)
                made[retry_seconds].start()
            return made[retry_seconds]

        yield agent


@pytest.fixture(scope="module")
def patient(agents: Agents) -> Daemon:
    """An agent that tries long enough to survive what passes."""
    return agents(PATIENT_SECONDS)


@pytest.fixture(scope="module")
def hasty(agents: Agents) -> Daemon:
    """An agent that gives up soon."""
    return agents(HASTY_SECONDS)


@pytest.fixture(scope="module")
def saved(seaweed: SeaweedServer, proxy: Proxy, module_bucket: str, patient: Daemon) -> pb.Storage:
    """A repository with a snapshot of the usual workspace, for restores."""
    storage = storage_message(seaweed, proxy, module_bucket, f"saved-{uuid.uuid4().hex}")
    scene = Scene(patient, storage, "saved")
    scene.prepare(Kind.RESTORE)
    scene.close()
    return storage


MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(
    proxy: Proxy, seaweed: SeaweedServer, module_bucket: str, patient: Daemon, saved: pb.Storage
) -> Iterator[MakeScene]:
    """Makes a scene whose store is reached through the proxy: with an empty repository for a snapshot."""
    made: list[Scene] = []

    def make(kind: Kind, nodes: Sequence[Node] = TREE) -> Scene:
        name = uuid.uuid4().hex
        own = storage_message(seaweed, proxy, module_bucket, name)
        made.append(Scene(patient, own if kind is Kind.SNAPSHOT else saved, name, nodes))
        return made[-1]

    yield make
    proxy.script = lambda seen: None
    for scene in made:
        scene.close()


def storage_message(seaweed: SeaweedServer, proxy: Proxy, bucket: str, prefix: str) -> pb.Storage:
    """Returns how an agent reaches a repository through the proxy."""
    config = seaweed.storage_config(bucket, prefix)
    assert config.credentials is not None
    storage = convert.storage_message(config)
    storage.endpoint = proxy.endpoint
    storage.credentials.access_key_id = config.credentials.access_key_id
    storage.credentials.secret_access_key = config.credentials.secret_access_key
    return storage
