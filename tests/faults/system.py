"""What tests of faults in processes and machines share: agents that can continue, moments, victims."""

from __future__ import annotations

import contextlib
import enum
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gpusnap.v1 import snapshot_agent_pb2 as pb

from agent.pipeline.process_name import ProcessName
from tests.faults.invariants import SETTINGS, TREE, Scene
from tests.support.daemon import Daemon, descendants, role_of
from tests.support.proxy import Fault, Proxy, Seen
from tests.support.seaweed import REGION, SeaweedServer
from tests.support.trees import Node

ENGINES = ("s5cmd", "stream")

FEWEST_REQUESTS = 10
"""Every operation of a scene sends at least this many: the shortest, a restore by ``stream``, sends eleven."""


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


@contextlib.contextmanager
def scene_behind(
    proxy: Proxy, daemon: Daemon, bucket: str, nodes: Sequence[Node] = TREE, root: Path | None = None
) -> Iterator[Scene]:
    """Makes a scene of its own, which reaches the store through a proxy; in the end that passes everything on again."""
    name = f"scene-{os.urandom(4).hex()}"
    made = Scene(daemon, place(proxy.endpoint, bucket, name), name, nodes, root)
    try:
        yield made
    finally:
        proxy.script = lambda seen: None
        proxy.released.set()
        made.close()


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
    LOOKOUT = "lookout"


_ROLES = {
    Victim.OPERATION: (ProcessName.OPERATION,),
    Victim.WORKER: (ProcessName.PACK, ProcessName.WRITE),
    Victim.LOOKOUT: (ProcessName.LOOKOUT,),
}


def processes_of(agent: Daemon, victim: Victim) -> list[int]:
    """Returns the processes of this kind that an agent has now."""
    if victim is Victim.AGENT:
        return [agent.pid]
    return sorted(pid for pid in descendants(agent.pid) if _is(victim, pid))


def _is(victim: Victim, pid: int) -> bool:
    if victim is not Victim.S5CMD:
        return role_of(pid) in _ROLES[victim]
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.path.basename(arguments[0]) == b"s5cmd" and b"run" in arguments


@contextlib.contextmanager
def watching(agent: Daemon, victim: Victim, act: Callable[[int], object]) -> Iterator[None]:
    """Calls ``act`` with every process of this kind, as soon as it is seen."""
    is_over = threading.Event()

    def watch() -> None:
        known: set[int] = set()
        while not is_over.wait(0.002):
            for pid in set(processes_of(agent, victim)) - known:
                act(pid)
                known.add(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextlib.contextmanager
def sent(
    number: signal.Signals, agent: Daemon, victim: Victim, proxy: Proxy, requests: int, chance: random.Random
) -> Iterator[list[int]]:
    """Sends a signal to one process of this kind in the block, and yields the list that it is put into.

    It is sent when one of the first ``requests`` requests arrives, or one after it. Worker processes may have done all
    their work by then, so that one of those gets it a while after it was started, at most the tenth of a second that
    its imports alone take.
    """
    hit: list[int] = []

    def send(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            hit.append(pid)

    def send_to_one() -> bool:
        found = processes_of(agent, victim)
        if found:
            send(chance.choice(found))
        return bool(hit)

    after = chance.choice((0.0, chance.uniform(0.0, 0.1)))

    is_about_to = threading.Event()
    numbers = itertools.count()

    def send_after(pid: int) -> None:
        if not hit:
            is_about_to.set()
            time.sleep(after)
            send(pid)
            is_about_to.clear()
            proxy.released.set()

    if victim is Victim.WORKER:
        proxy.released.clear()
        # However fast the machine is, the operation is not over before.
        proxy.script = lambda seen: Fault(is_held=True) if next(numbers) >= requests and is_about_to.is_set() else None
        with watching(agent, victim, send_after):
            try:
                yield hit
            finally:
                proxy.script = lambda seen: None
                proxy.released.set()
        return
    proxy.script = Moment(chance.randrange(requests), send_to_one)
    try:
        yield hit
    finally:
        proxy.script = lambda seen: None
