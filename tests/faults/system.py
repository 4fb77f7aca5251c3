"""What tests of faults in processes and machines share: agents that can continue, moments, victims."""

from __future__ import annotations

import contextlib
import enum
import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from gpusnap.v1 import snapshot_agent_pb2 as pb

from tests.faults.invariants import SETTINGS
from tests.support.daemon import Daemon, descendants
from tests.support.proxy import Fault, Seen
from tests.support.seaweed import REGION, SeaweedServer

ENGINES = ("s5cmd", "stream")


@contextlib.contextmanager
def running_agent(seaweed: SeaweedServer, engine: str, **environ: str) -> Iterator[Daemon]:
    """Runs an agent that has keys for the store, so that it can continue what it began."""
    with stopped_agent(seaweed, engine, **environ) as daemon:
        daemon.start()
        yield daemon


@contextlib.contextmanager
def stopped_agent(seaweed: SeaweedServer, engine: str, **environ: str) -> Iterator[Daemon]:
    """The same, not started yet."""
    folder = Path(tempfile.mkdtemp(prefix="gpusnap-"))
    keys = {
        "AWS_ACCESS_KEY_ID": seaweed.access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.secret_key,
        "GPUSNAP_TRANSFER__ENGINE": engine,
        "GPUSNAP_AGENT__DRAIN_SECONDS": "0",
    }
    daemon = Daemon(folder, environ={**SETTINGS, **keys, **environ})
    try:
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(folder, ignore_errors=True)


def place(endpoint: str, bucket: str, prefix: str) -> pb.Storage:
    """Returns a repository for which the agent has the keys."""
    return pb.Storage(provider=pb.PROVIDER_CUSTOM, bucket=bucket, prefix=prefix, endpoint=endpoint, region=REGION)


class Moment:
    """Does something once, when a request arrives at a proxy, before that is passed on.

    Args:
        number: how many requests pass first.
        act: does it; if it returns False, it is tried again at the next request.
    """

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self._left = number
        self._act = act
        self.has_come = threading.Event()

    def __call__(self, seen: Seen) -> Fault | None:
        """Sees a request."""
        self._left -= 1
        if self._left < 0 and not self.has_come.is_set() and self._act() is not False:
            self.has_come.set()
        return None


class Victim(enum.Enum):
    """The processes that may be killed or stopped."""

    AGENT = "agent"
    OPERATION = "operation"
    WORKER = "worker"
    S5CMD = "s5cmd"


_PROGRAMS = {
    Victim.OPERATION: (b"agent.operations.worker",),
    Victim.WORKER: (b"agent.snapshot.worker", b"agent.restore.worker"),
}


def processes_of(agent: Daemon, victim: Victim) -> list[int]:
    """Returns the processes of this kind that an agent has now."""
    if victim is Victim.AGENT:
        return [agent.pid]
    return sorted(pid for pid in descendants(agent.pid) if _is(victim, pid))


def _is(victim: Victim, pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    if victim is Victim.S5CMD:
        return os.path.basename(arguments[0]) == b"s5cmd" and b"run" in arguments
    return any(program in arguments for program in _PROGRAMS[victim])


def hit(agent: Daemon, victim: Victim, number: signal.Signals, chance: random.Random) -> int:
    """Sends a signal to one of these processes and returns which; 0 if there is none."""
    found = processes_of(agent, victim)
    if not found:
        return 0
    pid = chance.choice(found)
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return 0
    return pid
