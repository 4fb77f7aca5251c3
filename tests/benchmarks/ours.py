"""gpusnap as a measured tool: a real agent for each engine, asked through the client library."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from controller_client import SyncAgentClient, SyncOperationHandle
from controller_client.errors import GpusnapError
from controller_client.model import Credentials, Provider, Storage
from tests.benchmarks.measure import AgentWatch, ToolError, Usage
from tests.benchmarks.stores import Store
from tests.benchmarks.tools import Action, Job
from tests.support.daemon import Daemon
from tests.support.pipelines import memory_folder

DIRECTORY = "directory"
"""The engine of a local folder as a store; it is not configured but follows from the store."""

ENGINE_KEY = "GPUSNAP_TRANSFER__ENGINE"


class Gpusnap:
    """One agent that uses one engine.

    What ``auto`` has found out an agent remembers by bucket, and each round has a new one: so every snapshot and every
    restore of a workspace compares the engines anew, as a first operation does. Only the restore of the weights, which
    follows in the same bucket, takes what the restore before it has found.

    Args:
        engine: the engine, ``directory`` among them.
        roots: what the agent may save, and where it may restore to.
        certificate: what it must trust to reach the store.
        under: a command that runs the agent, such as one that limits it.
    """

    actions = (Action.SNAPSHOT, Action.UNCHANGED, Action.RESTORE, Action.RESTORE_WEIGHTS)

    def __init__(
        self, engine: str, roots: Sequence[Path], certificate: Path | None = None, under: Sequence[str] = ()
    ) -> None:
        self.name = our_name(engine)
        self.uses_store = engine != DIRECTORY
        self._refusal = engine_refusal(engine)
        # The path of a socket must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="gpusnap-bench-"))
        self._staging = Path(tempfile.mkdtemp(prefix="gpusnap-bench-", dir=memory_folder()))
        self._daemon = Daemon(
            self._folder,
            environ={
                # boto3 reads the one, s5cmd the other.
                **({"AWS_CA_BUNDLE": str(certificate), "SSL_CERT_FILE": str(certificate)} if certificate else {}),
                **({ENGINE_KEY: engine} if self.uses_store else {}),
                "GPUSNAP_AGENT__STAGING_DIR": str(self._staging),
                "GPUSNAP_AGENT__WORKSPACE_ROOTS": ",".join(map(str, roots)),
            },
            under=under,
        )
        self._saved: dict[Path, str] = {}
        if not self._refusal:
            self._daemon.start()

    def version(self) -> str:
        """Its version on one line."""
        with SyncAgentClient(self._daemon.address) as client:
            return client.info().version

    def unfit(self, store: Store) -> str:
        """Why it cannot be measured: what the configuration says about its engine."""
        return self._refusal

    def original(self, job: Job) -> Path:
        """What a restored tree must be equal to."""
        return job.workspace

    def perform(self, action: Action, job: Job) -> Usage:
        """Does it and measures it."""
        with SyncAgentClient(self._daemon.address) as client:
            if action in (Action.SNAPSHOT, Action.UNCHANGED):
                start = functools.partial(client.snapshot, str(job.workspace), storage=self._storage(job))
                return self._measured(job, start, is_unchanged=action is Action.UNCHANGED)
            paths = [os.fsencode(path) for path in job.contents.weights] if action is Action.RESTORE_WEIGHTS else []
            return self._restore(client, job, self.saved(job), job.target(action), paths)

    def restore(self, job: Job, snapshot: str, target: Path) -> Usage:
        """Brings back a snapshot, of this agent or another one, and measures it.

        Raises:
            ToolError: it failed.
        """
        with SyncAgentClient(self._daemon.address) as client:
            return self._restore(client, job, snapshot, target, [])

    def saved(self, job: Job) -> str:
        """Returns the id of the last snapshot of a job."""
        return self._saved[job.folder]

    def close(self) -> None:
        """Ends the agent."""
        self._daemon.close()
        shutil.rmtree(self._staging, ignore_errors=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _restore(self, client: SyncAgentClient, job: Job, snapshot: str, target: Path, paths: Sequence[bytes]) -> Usage:
        storage = self._storage(job)
        return self._measured(job, lambda: client.restore(snapshot, str(target), paths=paths, storage=storage))

    def _measured(self, job: Job, start: Callable[[], SyncOperationHandle], is_unchanged: bool = False) -> Usage:
        try:
            with AgentWatch(self._daemon.pid, self._staging, self._daemon.tcp_address) as watch:
                result = start().result()
        except GpusnapError as error:
            raise ToolError(str(error)) from error
        if result.warnings:
            raise ToolError(f"completed with {result.warnings} warnings: the workspace must not change meanwhile")
        if is_unchanged and (result.chunks_transferred or result.unchanged_files < result.totals.files):
            raise ToolError(f"only {result.unchanged_files} of {result.totals.files} files were found unchanged")
        self._saved[job.folder] = result.snapshot_id
        return msgspec.structs.replace(watch.usage, engine=result.engine)

    def _storage(self, job: Job) -> Storage:
        if not self.uses_store:
            folder = repository_folder(job)
            folder.mkdir(exist_ok=True)
            return Storage(Provider.LOCAL, endpoint=str(folder))
        bucket = job.bucket
        keys = Credentials(bucket.access_key, bucket.secret_key)
        return Storage(Provider.CUSTOM, bucket.name, "", bucket.endpoint, bucket.region, keys)


def our_name(engine: str) -> str:
    """Returns how tables call gpusnap with an engine."""
    return f"gpusnap, {engine}"


def repository_folder(job: Job) -> Path:
    """Returns where the engine ``directory`` keeps the repository of a job."""
    return job.folder / "repository"


def engine_refusal(engine: str) -> str:
    """Returns why the configuration refuses an engine; empty if it does not."""
    if engine == DIRECTORY:
        return ""
    program = os.path.join(os.path.dirname(sys.executable), "gpusnap-agent")
    environment = {**os.environ, ENGINE_KEY: engine}
    ended = subprocess.run([program, "check-config"], env=environment, capture_output=True, text=True, timeout=60)
    return ended.stderr.strip().partition("; correct")[0] if ended.returncode else ""
